"""Training on two hosts, each with its own address and sshd; one of them cut off in the middle."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.hosts import missing_for_two_hosts, two_hosts
from tests.training.small_runs import small_values, write_class_folders
from tfpipe.training.checkpoints import load

pytestmark = [
    pytest.mark.system,
    pytest.mark.tensorflow,
    pytest.mark.horovod,
    pytest.mark.slow,
    pytest.mark.timeout(600),
]

ROOT = Path(__file__).resolve().parent.parent.parent
HOROVODRUN = str(Path(sys.executable).with_name("horovodrun"))
WAIT_S = 240.0
# Horovod's own 30, shortened.
GLOO_TIMEOUT_S = 8


@pytest.fixture
def hosts(tmp_path):
    if reason := missing_for_two_hosts():
        pytest.skip(f"two hosts on one machine: {reason}")
    folder = tmp_path / "hosts"
    folder.mkdir()
    with two_hosts(folder) as both:
        yield both


def start(hosts, log, *arguments):
    environment = {
        **hosts.environment, "TF_CPP_MIN_LOG_LEVEL": "3", "HOROVOD_GLOO_TIMEOUT_SECONDS": str(GLOO_TIMEOUT_S),
    }  # fmt: skip
    command = hosts.first.command(
        HOROVODRUN, "--gloo", "-np", "2", "-H", f"{hosts.first.name}:1,{hosts.second.name}:1", "--start-timeout", "120",
        sys.executable, "-m", "tfpipe.train", *arguments,
    )  # fmt: skip
    with open(log, "w") as output:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT)


def workers(host):
    return [process for process in host.processes() if "tfpipe.train" in " ".join(process.cmdline()[:4])]


def wait_for(condition, log):
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


def test_a_host_cut_off_ends_the_run_on_both_sides_and_the_run_can_be_resumed(tmp_path, hosts):
    data = write_class_folders(tmp_path / "data", num_samples=44)
    values = small_values(tmp_path, data, epochs=100_000, keep_checkpoints=2)
    values["tracking"]["registered_model"] = None
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(values))
    checkpoints, log = tmp_path / "run" / "checkpoints", tmp_path / "log"

    launcher = start(hosts, log, "--config", str(tmp_path / "run.yaml"))
    wait_for(lambda: any(checkpoints.glob("step-*")) or launcher.poll() is not None, log)
    assert launcher.poll() is None, log.read_text()
    [second] = [process for process in workers(hosts.second) if "python" in process.name()]
    hosts.cut()
    cut = time.monotonic()

    # The launcher's side ends with a message that names who is gone; the other side by itself, which nobody can tell.
    assert launcher.wait(timeout=WAIT_S) != 0
    second.wait(timeout=WAIT_S)
    # Horovod's own limit, two seconds to find out who is gone, and time for processes to end on a busy machine.
    assert time.monotonic() - cut < GLOO_TIMEOUT_S + 40
    wait_for(lambda: workers(hosts.first) == workers(hosts.second) == [], log)
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    assert status["exit_code"] == 1
    assert status["reason"].startswith("a worker on machine-2 was lost, so worker 0 ends too."), log.read_text()
    assert f"--config {tmp_path}/run/config.yaml --resume" in status["reason"]
    assert "Traceback" not in "".join(line for line in log.read_text().splitlines() if line.startswith("["))

    hosts.mend()
    _, state = load(max(checkpoints.glob("step-*")))
    epochs = f"training.epochs={state.epoch + 1}"
    resumed = start(hosts, log, "--config", f"{tmp_path}/run/config.yaml", "--resume", epochs)

    assert resumed.wait(timeout=WAIT_S) == 0, log.read_text()
    assert "resuming from" in log.read_text()
    assert json.loads((tmp_path / "run" / "result.json").read_text())["workers"] == 2


def test_a_host_name_that_means_the_machine_itself_is_refused_with_the_line_to_write(hosts):
    # As Debian and Ubuntu install it.
    hosts.second.know({hosts.second.name: "127.0.1.1", hosts.first.name: "198.51.100.1"})
    worker = {"HOROVOD_RANK": "1", "HOROVOD_SIZE": "2", "HOROVOD_GLOO_RENDEZVOUS_ADDR": "198.51.100.1"}

    done = subprocess.run(
        hosts.second.command(sys.executable, "-c", "from tfpipe.distributed import join; join()"),
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, **worker, "HOROVOD_GLOO_RENDEZVOUS_PORT": "9"},
    )  # fmt: skip

    assert done.returncode != 0
    assert "/etc/hosts of machine-2: " in done.stderr
    assert "received 127.0.1.1, which other machines cannot reach" in done.stderr
    assert "Write the line `198.51.100.2 machine-2` there in place of the one with 127.0.1.1." in done.stderr
