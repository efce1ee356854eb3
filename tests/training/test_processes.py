"""Whole runs as a user starts them: killed, interrupted, resumed, and on several workers."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml

from tests.training.small_runs import small_values, write_class_folders
from tfpipe.train import main as train
from tfpipe.training.checkpoints import load

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow, pytest.mark.timeout(900)]

HOROVODRUN = str(Path(sys.executable).with_name("horovodrun"))
TRAIN = [sys.executable, "-m", "tfpipe.train"]
ENVIRONMENT = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
WAIT_S = 300.0
# Of a run that is killed at its step 8: six steps each, a checkpoint every two.
EPOCHS = 16


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_class_folders(tmp_path_factory.mktemp("data"), num_samples=44)


def write_config(folder, data, **training):
    path = folder / "given.yaml"
    values = small_values(folder, data, **training)
    values["tracking"]["registered_model"] = None
    path.write_text(yaml.safe_dump(values))
    return path


def run(command, **options):
    return subprocess.run(
        command, capture_output=True, text=True, timeout=WAIT_S, env=ENVIRONMENT, check=False, **options
    )


def newest(run):
    """Arrays and state of a run's last checkpoint."""
    return load(max((run / "checkpoints").glob("step-*")))


def wait_for(condition, process):
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def assert_equal_weights(arrays, others, tolerance=None):
    assert arrays.keys() == others.keys()
    for name, array in arrays.items():
        if tolerance is None:
            assert array.tobytes() == others[name].tobytes(), name
        else:
            np.testing.assert_allclose(array, others[name], rtol=tolerance, atol=tolerance, err_msg=name)


def assert_same_run(found, expected):
    """Checkpoints of runs of the same samples, on other numbers of workers."""
    (arrays, state), (others, other_state) = found, expected
    # Names of variables count what else a process has made.
    by_position = [{"/".join(name.split("/")[:2]): array for name, array in part.items()} for part in (arrays, others)]
    # Sums of the same float32 gradients in another order: a step of rounding at 1e-7 each, growing a little.
    assert_equal_weights(*by_position, tolerance=1e-5)
    assert state.samples_seen == other_state.samples_seen
    assert [row["epoch"] for row in state.history] == [row["epoch"] for row in other_state.history]
    for row, other_row in zip(state.history, other_state.history, strict=True):
        assert row["loss"] == pytest.approx(other_row["loss"], rel=1e-4)


def test_a_killed_run_resumed_in_mid_epoch_equals_the_uninterrupted_one_bit_for_bit(tmp_path, data):
    settings = {"deterministic": True, "checkpoint_steps": 2, "epochs": EPOCHS, "optimizer": "adamw"}
    (tmp_path / "killed").mkdir()
    (tmp_path / "whole").mkdir()
    killed = write_config(tmp_path / "killed", data, **settings)
    whole = write_config(tmp_path / "whole", data, **settings)
    checkpoints = tmp_path / "killed" / "run" / "checkpoints"

    process = subprocess.Popen([*TRAIN, "--config", str(killed)], env=ENVIRONMENT, stderr=subprocess.PIPE)
    # Six steps an epoch: step 8 is in the middle of the second.
    wait_for(lambda: (checkpoints / "step-00000008").exists(), process)
    process.kill()
    process.communicate()
    assert len(newest(tmp_path / "killed" / "run")[1].history) < EPOCHS
    resumed = run([*TRAIN, "--config", str(killed), "--resume"])
    uninterrupted = run([*TRAIN, "--config", str(whole)])

    assert (resumed.returncode, uninterrupted.returncode) == (0, 0), resumed.stderr + uninterrupted.stderr
    assert "resuming from" in resumed.stderr
    arrays, state = newest(tmp_path / "killed" / "run")
    others, other_state = newest(tmp_path / "whole" / "run")
    assert_equal_weights(arrays, others)
    for metrics, other_metrics in zip(state.history, other_state.history, strict=True):
        for name in ("loss", "accuracy", "val_loss", "val_accuracy", "corrupt_samples"):
            assert metrics[name] == other_metrics[name]
    assert state.samples_seen == other_state.samples_seen == EPOCHS * 32


@pytest.fixture(scope="module")
def long_run(tmp_path_factory, data):
    """(folder, process) of a run past its first checkpoint."""
    folder = tmp_path_factory.mktemp("long")
    config = write_config(folder, data, epochs=100_000)
    process = subprocess.Popen([*TRAIN, "--config", str(config)], env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    try:
        wait_for(lambda: any((folder / "run").glob("checkpoints/step-*")), process)
        yield folder, process
    finally:
        process.kill()
        process.wait()


def test_two_runs_cannot_share_a_folder(long_run, capsys):
    folder, _ = long_run

    code = train(["--config", str(folder / "given.yaml"), "--overwrite"])

    assert code == 2
    assert "another process is training into" in capsys.readouterr().err


def test_ctrl_c_saves_and_exits_75_and_the_message_resumes(long_run):
    folder, process = long_run

    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=WAIT_S)

    assert process.returncode == 75
    assert "Traceback" not in errors
    status = json.loads((folder / "run" / "status.json").read_text())
    assert status["exit_code"] == 75
    assert f"--config {folder}/run/config.yaml --resume" in status["reason"]
    _, state = newest(folder / "run")
    assert train(["--config", f"{folder}/run/config.yaml", "--resume", f"training.epochs={state.epoch + 1}"]) == 0


def start_two_workers(folder, data):
    """A long run on two workers, past its first checkpoint."""
    config = write_config(folder, data, epochs=2000)
    command = [HOROVODRUN, "--gloo", "-np", "2", *TRAIN, "--config", str(config)]
    launcher = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_for(lambda: any((folder / "run").glob("checkpoints/step-*")), launcher)
    return launcher


@pytest.mark.horovod
def test_ctrl_c_under_horovodrun_saves_and_leaves_no_worker_behind(tmp_path, data):
    launcher = start_two_workers(tmp_path, data)
    workers = psutil.Process(launcher.pid).children(recursive=True)

    launcher.send_signal(signal.SIGINT)
    output, _ = launcher.communicate(timeout=WAIT_S)

    assert json.loads((tmp_path / "run" / "status.json").read_text())["exit_code"] == 75, output
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert not alive
    assert newest(tmp_path / "run")[1].step > 0


@pytest.mark.horovod
def test_a_worker_that_is_killed_ends_the_others_who_name_it_and_say_how_to_go_on(tmp_path, data):
    launcher = start_two_workers(tmp_path, data)
    workers = {
        process.environ()["HOROVOD_RANK"]: process
        for process in psutil.Process(launcher.pid).children(recursive=True)
        if process.cmdline()[1:3] == ["-m", "tfpipe.train"]
    }

    workers["1"].kill()
    killed_s = time.monotonic()
    output, _ = launcher.communicate(timeout=WAIT_S)

    assert time.monotonic() - killed_s < 30
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert status["exit_code"] == 1, output
    assert status["reason"].startswith(f"worker 1 (process {workers['1'].pid} on "), output
    assert "has ended, so worker 0 ends too" in status["reason"]
    assert status["reason"].endswith(f"--config {tmp_path}/run/config.yaml --resume")


def test_workers_without_horovod_are_an_error_never_separate_trainings(tmp_path, data):
    config = write_config(tmp_path, data)
    blocked = "import sys; sys.modules['horovod.tensorflow'] = None; from tfpipe.train import main; sys.exit(main())"

    done = subprocess.run(
        [sys.executable, "-c", blocked, "--config", str(config)],
        capture_output=True, text=True, timeout=WAIT_S, check=False,
        env={**ENVIRONMENT, "HOROVOD_SIZE": "2", "HOROVOD_RANK": "0"},
    )  # fmt: skip

    assert done.returncode == 2
    assert "Horovod cannot be imported" in done.stderr
    assert not (tmp_path / "run").exists()
