"""A model in a process of its own: it answers as in this one, and what kills or freezes it costs one batch."""

import json
import logging
import os
import signal
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from serving.child import ChildModel
from serving.child_process import ChildProcess, ModelFile
from serving.errors import ModelCrashedError, ModelDownError, RunTimeoutError
from tests.serving.bundles import SIDE
from tests.serving.servers import wait_for
from tfpipe.core.errors import BundleError, ConfigError, InferenceError
from tfpipe.ort import open_session

# Longer than a start on a busy machine.
PATIENT_S = 60.0
ROWS = np.random.default_rng(0).random((3, SIDE, SIDE, 3), np.float32)


@pytest.fixture(scope="module")
def fast_file(bundle) -> ModelFile:
    return ModelFile(bundle / "model.fp32.onnx", threads=1)


@pytest.fixture(scope="module")
def slow_file(slow_bundle) -> ModelFile:
    return ModelFile(slow_bundle / "model.fp32.onnx", threads=1)


@pytest.fixture(scope="module")
def fast(fast_file):
    """For tests that leave it as it is."""
    model = ChildModel("fast/1", fast_file, run_timeout_s=PATIENT_S)
    yield model
    model.close()


@pytest.fixture
def slow(slow_file):
    """For tests that break it."""
    model = ChildModel("slow/1", slow_file, run_timeout_s=PATIENT_S)
    yield model
    model.close()


@pytest.fixture
def caller():
    with ThreadPoolExecutor(2) as pool:
        yield pool


def pid_of(model: ChildModel) -> int:
    assert model.pid is not None
    return model.pid


def cpu_ticks(pid: int) -> int:
    """Processor time in hundredths of a second."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def run_in_middle(model: ChildModel, caller: ThreadPoolExecutor) -> "Future[dict[str, np.ndarray]]":
    """A run that its process is busy with."""
    pid = pid_of(model)
    before = cpu_ticks(pid)
    running = caller.submit(model.run, {"input": ROWS})
    wait_for(lambda: cpu_ticks(pid) >= before + 3)
    return running


def has_ended(pid: int) -> bool:
    try:
        # A process that nobody waited for is a zombie: its parent was another.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_it_is_what_the_session_in_this_process_is(fast, fast_file):
    here = open_session(fast_file.path, threads=1)

    answers = fast.run({"input": ROWS}, ["probabilities"])

    assert (fast.input_names, fast.output_names) == (here.input_names, here.output_names)
    assert (fast.provider, fast.arithmetic, fast.on_cpu) == (here.provider, here.arithmetic, here.on_cpu)
    assert np.array_equal(answers["probabilities"], here.run({"input": ROWS})["probabilities"])


def test_answers_stay_when_the_next_batch_comes(fast):
    first = fast.run({"input": ROWS})["probabilities"]
    kept = first.copy()

    fast.run({"input": np.ones_like(ROWS)})

    assert np.array_equal(first, kept)


def test_batches_larger_than_its_memory_are_answered(fast):
    many = np.tile(ROWS, (2000, 1, 1, 1))

    answers = fast.run({"input": many})["probabilities"]

    assert np.allclose(answers[:3], answers[-3:])
    assert len(answers) == 6000


def test_threads_may_share_it(fast, caller):
    batches = [np.full((2, SIDE, SIDE, 3), value, np.float32) for value in np.linspace(0, 1, 20)]
    batches[1:10] = [batch * np.array([1, 0, 0], np.float32) for batch in batches[1:10]]
    alone = [fast.run({"input": batch})["probabilities"] for batch in batches]

    together = list(caller.map(lambda batch: fast.run({"input": batch})["probabilities"], batches))

    assert all(np.array_equal(one, other) for one, other in zip(alone, together, strict=True))


def test_an_input_that_fails_leaves_the_process_as_it_is(fast):
    before = fast.pid

    with pytest.raises(InferenceError, match="expected an answer, but ONNX Runtime failed"):
        fast.run({"input": np.zeros((1, 2, 2, 1), np.float32)})
    with pytest.raises(InferenceError, match="expected numbers, received object"):
        fast.run({"input": np.array(["a"], object)})

    assert fast.pid == before
    assert fast.run({"input": ROWS})


def test_its_memory_can_be_read(fast):
    assert fast.memory_bytes is not None
    assert 2**24 < fast.memory_bytes < 2**30


@pytest.mark.parametrize(
    ("changes", "kind", "sentence"),
    [
        ({"path": Path("/nothing.onnx")}, BundleError, "expected an ONNX model that ONNX Runtime can load"),
        ({"provider": "abacus"}, ConfigError, "expected one of auto, cpu"),
    ],
)
def test_what_is_wrong_at_opening_comes_back_as_it_is(fast_file, changes, kind, sentence):
    values = {"path": fast_file.path, "provider": "cpu", **changes}

    with pytest.raises(kind, match=sentence):
        ChildModel("broken/1", ModelFile(**values), run_timeout_s=1)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_a_crash_costs_its_batch_alone(slow, fast, caller, signum):
    running = run_in_middle(slow, caller)

    os.kill(pid_of(slow), signum)

    with pytest.raises(ModelCrashedError, match="its process ended while it ran this batch"):
        running.result()
    assert fast.run({"input": ROWS})
    assert slow.run({"input": ROWS})
    assert (slow.restarts, fast.restarts) == (1, 0)


def test_a_hang_is_ended_and_costs_its_batch_alone(slow, fast, caller):
    slow.run({"input": ROWS})
    os.kill(pid_of(slow), signal.SIGSTOP)
    slow.run_timeout_s = 0.2

    with pytest.raises(RunTimeoutError, match=r"within 0\.2 s"):
        slow.run({"input": ROWS})

    slow.run_timeout_s = PATIENT_S
    assert fast.run({"input": ROWS})
    assert slow.run({"input": ROWS})


def test_a_process_that_ends_while_idle_costs_nothing(slow):
    before = pid_of(slow)
    os.kill(before, signal.SIGKILL)

    answers = slow.run({"input": ROWS})

    assert len(answers["probabilities"]) == 3
    assert slow.pid != before


def test_one_that_ends_again_and_again_is_given_time(slow):
    for _ in range(3):
        wait_for(lambda: slow.pid is not None)
        pid = pid_of(slow)
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda pid=pid: slow.pid != pid)

    with pytest.raises(ModelDownError, match="is not there again yet"):
        slow.run({"input": ROWS})

    wait_for(lambda: slow.pid is not None)
    assert slow.run({"input": ROWS})


def test_signals_for_the_whole_group_do_not_end_it(slow):
    pid = pid_of(slow)

    for signum in (signal.SIGINT, signal.SIGTERM):
        os.kill(pid, signum)

    assert slow.run({"input": ROWS})
    assert slow.pid == pid


@pytest.mark.parametrize("is_stopped", [False, True])
def test_it_ends_with_the_service_even_where_that_is_killed(fast_file, is_stopped):
    script = f"""
import signal, sys, time
from pathlib import Path
from serving.child import ChildModel
from serving.child_process import ModelFile
model = ChildModel("orphan/1", ModelFile(Path({str(fast_file.path)!r})), run_timeout_s=9)
print(model.pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        if is_stopped:
            os.kill(pid, signal.SIGSTOP)

        parent.kill()

        wait_for(lambda: has_ended(pid))


def test_closing_ends_the_process_and_a_run_in_it(slow, caller):
    running = run_in_middle(slow, caller)
    pid = pid_of(slow)

    slow.close()

    with pytest.raises(ModelCrashedError):
        running.result()
    with pytest.raises(ModelDownError):
        slow.run({"input": ROWS})
    wait_for(lambda: has_ended(pid))


# In an interpreter of its own: in this one, what earlier tests closed may be on its way out yet.
LEFT_BEHIND = """
import os, signal, sys, threading
from pathlib import Path
from serving.child import ChildModel
from serving.child_process import ModelFile
from tests.serving.servers import wait_for
from tests.serving.test_child import PATIENT_S, ROWS, pid_of

def held():
    files = sorted(os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.exists())
    return files, threading.active_count()

before = held()
for _ in range(2):
    model = ChildModel("brief/1", ModelFile(Path(sys.argv[1]), threads=1), run_timeout_s=PATIENT_S)
    model.run({"input": ROWS})
    os.kill(pid_of(model), signal.SIGKILL)
    model.run({"input": ROWS})
    model.close()

wait_for(lambda: held() == before)
"""


def test_nothing_is_left_behind(fast_file):
    subprocess.run([sys.executable, "-c", LEFT_BEHIND, str(fast_file.path)], check=True, timeout=PATIENT_S)


def test_what_it_writes_is_in_the_log_of_the_service(slow, caplog):
    def told() -> dict[str, logging.LogRecord]:
        return {record.getMessage(): record for record in caplog.records}

    with caplog.at_level(logging.WARNING):
        os.kill(pid_of(slow), signal.SIGSEGV)
        wait_for(lambda: {"Fatal Python error: Segmentation fault", "the process of a model ended"} <= told().keys())

    ended = told()["the process of a model ended"]
    assert ended.levelno == logging.ERROR
    assert json.dumps(ended.fields) == json.dumps({"served": "slow/1", "how": "signal SIGSEGV", "again_in_s": 0.0})


def test_it_imports_neither_web_server_nor_registry():
    script = "import sys, serving.child_main; print(*sys.modules)"
    imported = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split()

    assert set(imported).isdisjoint({"fastapi", "starlette", "uvicorn", "pydantic", "mlflow", "asyncio"})


def test_a_signal_to_all_processes_of_a_terminal_does_not_end_one_that_starts(fast_file):
    process = ChildProcess("starting/1", fast_file, log_level="info")
    try:
        # Its interpreter has hardly begun.
        for signum in (signal.SIGINT, signal.SIGTERM):
            os.kill(process.pid, signum)

        opened = process.open(PATIENT_S)
        answers = process.run({"input": ROWS}, None, PATIENT_S)
    finally:
        process.kill()
        process.release()

    assert opened["provider"] == "cpu"
    assert len(answers["probabilities"]) == len(ROWS)
