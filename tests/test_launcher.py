"""A worker and its launcher: met at the launcher's real server, and ended with it."""

import subprocess
import sys
import threading

import pytest

from tfpipe import launcher
from tfpipe.core.errors import ConfigError, TrainingError

# A worker as the launcher sees it: it says when it is ready, and on SIGTERM writes a file, as training saves.
WORKER = """
import pathlib, signal, sys, threading
from tfpipe.launcher import end_with_launcher
def save(number, frame):
    print("written after the launcher was gone", flush=True)
    pathlib.Path(sys.argv[1]).write_text("saved")
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
end_with_launcher(lambda: {joined})
print("ready", flush=True)
threading.Event().wait({seconds})
"""


@pytest.fixture
def server():
    """horovodrun's own key-value store."""
    http_server = pytest.importorskip("horovod.runner.http.http_server")
    store = http_server.RendezvousServer()
    port = store.start()
    store.init([])
    yield ("127.0.0.1", port)
    store.stop()


def meet_in_threads(server, ranks, size, patience_s):
    errors = {}

    def worker(rank):
        try:
            launcher.meet(server, rank=rank, size=size, host=f"machine-{rank}", patience_s=patience_s)
            errors[rank] = None
        except TrainingError as error:
            errors[rank] = str(error)

    threads = [threading.Thread(target=worker, args=(rank,)) for rank in ranks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    return errors


@pytest.mark.horovod
def test_workers_go_on_when_all_have_come(server):
    assert meet_in_threads(server, [2, 0, 1], size=3, patience_s=20) == {0: None, 1: None, 2: None}


@pytest.mark.horovod
def test_every_worker_learns_which_did_not_come(server):
    errors = meet_in_threads(server, [0, 2], size=4, patience_s=0.5)

    assert set(errors) == {0, 2}
    for message in errors.values():
        assert "expected 4 workers, but worker(s) 1, 3 had not started after 0.5 seconds" in message


def test_a_launcher_that_cannot_be_reached_is_told_with_what_to_open():
    with pytest.raises(
        TrainingError, match=r"horovodrun's server at 127\.0\.0\.1:9, .* open them between the machines"
    ):
        launcher.meet(("127.0.0.1", 9), rank=1, size=2, host="machine-2", patience_s=1)


@pytest.mark.parametrize("name", ["localhost", "no-such-machine.invalid"])
def test_a_host_name_that_leads_nowhere_is_refused_with_the_line_to_write(name):
    with pytest.raises(ConfigError, match=rf"/etc/hosts of {name}: .* Write the line `\S+ {name}` there"):
        launcher.check_host_name(name, ("198.51.100.1", 1))


def test_on_one_machine_the_host_name_may_mean_the_machine_itself():
    launcher.check_host_name("localhost", ("127.0.0.1", 1))


@pytest.mark.parametrize(("joined", "exit_code", "saved"), [(True, 75, True), (False, 1, False)])
def test_a_worker_whose_output_nobody_reads_any_longer_ends(tmp_path, joined, exit_code, saved):
    program = WORKER.format(joined=joined, seconds=60)
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path / "file")], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout.readline() == b"ready\n"

    # As sshd does when the launcher ends the ssh of a worker on another machine.
    process.stdout.close()
    process.stderr.close()

    assert process.wait(timeout=30) == exit_code
    assert (tmp_path / "file").exists() == saved


def test_a_worker_whose_output_goes_to_a_file_runs_to_its_end(tmp_path):
    program = WORKER.format(joined=True, seconds=0.3)
    with open(tmp_path / "log", "wb") as log:
        done = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path / "file")], stdout=log, stderr=log, timeout=30, check=False
        )

    assert (done.returncode, (tmp_path / "file").exists()) == (0, False)


def test_a_worker_without_standard_error_runs_to_its_end(tmp_path):
    program = WORKER.format(joined=True, seconds=0.3)

    done = subprocess.run(
        ["sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, "-c", program, str(tmp_path / "file")],
        stdout=subprocess.DEVNULL, timeout=30, check=False,
    )  # fmt: skip

    assert (done.returncode, (tmp_path / "file").exists()) == (0, False)
