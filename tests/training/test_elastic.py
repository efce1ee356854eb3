"""Elastic runs as a user starts them, disturbed by losing, freezing and adding workers.

All workers are on this machine. Horovod gives up the whole host of a lost worker, so each has a host name of its own;
all are spellings of the loopback address.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import psutil
import pytest
import yaml

from tests.training.small_runs import small_values, write_class_folders
from tests.training.test_processes import assert_equal_weights, newest
from tfpipe.config import load_config
from tfpipe.train import train

pytestmark = [pytest.mark.horovod, pytest.mark.slow, pytest.mark.timeout(600)]

HOROVODRUN = str(Path(sys.executable).with_name("horovodrun"))
HOSTS = ("localhost", "127.0.0.1", "127.1")
EPOCHS = 40
WAIT_S = 270.0


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_class_folders(tmp_path_factory.mktemp("data"), num_samples=44)


def write_config(folder, data, **training):
    folder.mkdir(exist_ok=True)
    settings = {"epochs": EPOCHS, "optimizer": "sgd", "schedule": "constant", "keep_checkpoints": 1, **training}
    path = folder / "given.yaml"
    path.write_text(yaml.safe_dump(small_values(folder, data, **settings)))
    return path


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, data):
    """The same run on one process that nothing happens to."""
    folder = tmp_path_factory.mktemp("undisturbed")
    train(load_config(write_config(folder, data)))
    return newest(folder)


class ElasticJob:
    """A job of up to three workers; `hosts` is the file that the discovery script prints."""

    def __init__(self, folder, config, *, workers, **environment):
        self.hosts, script = folder / "hosts", folder / "discover.sh"
        self.offer(workers)
        script.write_text(f"#!/bin/sh\ncat {self.hosts}\n")
        script.chmod(0o755)
        self._log = open(folder / "log", "w")  # noqa: SIM115  # closed by end()
        self.launcher = subprocess.Popen(
            [HOROVODRUN, "-np", str(workers), "--min-np", "2", "--max-np", "3", "--network-interface", "lo",
             "--host-discovery-script", str(script), sys.executable, "-m", "tfpipe.train", "--config", str(config)],
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment}, stdout=self._log, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def offer(self, workers):
        self.hosts.write_text("".join(f"{host}:1\n" for host in HOSTS[:workers]))

    def workers(self):
        """Processes by the rank that they were started with."""
        found = {}
        for process in psutil.Process(self.launcher.pid).children(recursive=True):
            try:
                if process.cmdline()[1:3] == ["-m", "tfpipe.train"]:
                    found[int(process.environ()["HOROVOD_RANK"])] = process
            except psutil.Error:
                continue
        return found

    def output(self):
        return Path(self._log.name).read_text()

    def wait_for(self, condition):
        deadline = time.monotonic() + WAIT_S
        while not condition():
            assert self.launcher.poll() is None, self.output()
            assert time.monotonic() < deadline, self.output()
            time.sleep(0.05)

    def end(self):
        try:
            self.launcher.wait(timeout=WAIT_S)
        finally:
            if self.launcher.poll() is None:
                for process in psutil.Process(self.launcher.pid).children(recursive=True):
                    process.kill()
                self.launcher.kill()
                self.launcher.wait()
            self._log.close()


def epochs_done(folder):
    checkpoints = sorted((folder / "run" / "checkpoints").glob("step-*"))
    # 33 training samples in batches of 6.
    return int(checkpoints[-1].name.removeprefix("step-")) // 6 if checkpoints else 0


def assert_same_result(arrays, expected):
    """By position: the names of variables count what else a process has made."""
    by_position = [
        {"/".join(name.split("/")[:2]): array for name, array in found.items()} for found in (arrays, expected)
    ]
    # Two and three workers add the same gradients in another order: rounding, as between one worker and two.
    assert_equal_weights(*by_position, tolerance=1e-5)


@pytest.mark.parametrize(
    ("disturbance", "rank"),
    [(signal.SIGKILL, 1), (signal.SIGKILL, 0), (signal.SIGSTOP, 2)],
    ids=["a worker is killed", "the chief is killed", "a worker is frozen"],
)
def test_a_run_survives_the_loss_of_a_worker_and_ends_as_if_nothing_had_happened(
    tmp_path, data, undisturbed, disturbance, rank
):
    config = write_config(tmp_path, data, elastic=True, elastic_commit_steps=4, stall_s=5.0)
    job = ElasticJob(tmp_path, config, workers=3)
    try:
        job.wait_for(lambda: epochs_done(tmp_path) >= 3)
        job.workers()[rank].send_signal(disturbance)
        job.wait_for(lambda: "going on from the last commit" in job.output() or job.launcher.poll() is not None)
    finally:
        job.end()

    arrays, state = newest(tmp_path)
    expected, expected_state = undisturbed
    assert job.launcher.returncode == 0, job.output()
    assert_same_result(arrays, expected)
    assert state.samples_seen == expected_state.samples_seen
    assert [row["epoch"] for row in state.history] == list(range(EPOCHS))
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (result["workers"], result["model_version"]) == (2, "1")
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("small").experiment_id])
    assert [(found.info.run_id, found.info.status) for found in runs] == [(result["run_id"], "FINISHED")]
    assert len(client.search_model_versions("name='small'")) == 1


def test_a_worker_that_comes_later_joins_in(tmp_path, data, undisturbed):
    config = write_config(tmp_path, data, elastic=True, elastic_commit_steps=4)
    # On a busy machine TensorFlow's import alone may take a minute.
    job = ElasticJob(tmp_path, config, workers=2, HOROVOD_GLOO_TIMEOUT_SECONDS="180")
    try:
        job.wait_for(lambda: epochs_done(tmp_path) >= 3)
        job.offer(3)
        job.wait_for(lambda: len(job.workers()) == 3)
    finally:
        job.end()

    arrays, state = newest(tmp_path)
    assert job.launcher.returncode == 0, job.output()
    assert_same_result(arrays, undisturbed[0])
    assert state.samples_seen == undisturbed[1].samples_seen
    assert json.loads((tmp_path / "run" / "result.json").read_text())["workers"] == 3
