"""Elastic runs as a user starts them, disturbed by losing, freezing and adding workers.

All workers are on this machine. Horovod gives up the whole host of a lost worker, so each has a host name of its own;
all are spellings of the loopback address.
"""

import json
import os
import random
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
from tests.training.test_processes import assert_same_run, newest
from tfpipe.config import load_config
from tfpipe.train import train

pytestmark = [pytest.mark.horovod, pytest.mark.slow, pytest.mark.timeout(600)]

HOROVODRUN = str(Path(sys.executable).with_name("horovodrun"))
HOSTS = ("localhost", "127.0.0.1", "127.1", "127.0.1")
# What a worker writes when others were lost.
GOING_ON = "going on with those that are there"
# Two disturbances, each three epochs and up to a second after the last: enough where an epoch takes 0.05 s.
EPOCHS = 50
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
    return newest(folder / "run")


class ElasticJob:
    """A job of up to four workers; `hosts` is the file that the discovery script prints."""

    def __init__(self, folder, config, *, workers, **environment):
        self.hosts, script = folder / "hosts", folder / "discover.sh"
        self.offer(workers)
        script.write_text(f"#!/bin/sh\ncat {self.hosts}\n")
        script.chmod(0o755)
        self._log = open(folder / "log", "w")  # noqa: SIM115  # closed by end()
        self.launcher = subprocess.Popen(
            [HOROVODRUN, "--gloo", "-np", str(workers), "--min-np", "2", "--max-np", "4", "--network-interface", "lo",
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


@pytest.fixture(params=range(int(os.environ.get("DISTURBED_RUNS", "1"))))
def moments(request):
    """Seconds to wait before each disturbance, longer than an epoch; DISTURBED_RUNS=20 tries as many."""
    chance = random.Random(request.param)
    return iter(lambda: chance.uniform(0.0, 1.0), None)


def lose_one(job, folder, disturbance, rank, moments):
    """Disturb the worker that was started as `rank`, once the run is well under way; wait until the others go on."""
    done = epochs_done(folder)
    job.wait_for(lambda: epochs_done(folder) >= done + 3)
    time.sleep(next(moments))
    notices = job.output().count(GOING_ON)
    job.workers()[rank].send_signal(disturbance)
    job.wait_for(lambda: job.output().count(GOING_ON) > notices)


def assert_one_registered_run(folder, *, workers):
    result = json.loads((folder / "run" / "result.json").read_text())
    assert (result["workers"], result["model_version"]) == (workers, "1")
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    runs = client.search_runs([client.get_experiment_by_name("small").experiment_id])
    assert [(found.info.run_id, found.info.status) for found in runs] == [(result["run_id"], "FINISHED")]
    assert len(client.search_model_versions("name='small'")) == 1


def test_a_run_whose_worker_and_then_whose_chief_are_killed_ends_as_if_nothing_had_happened(
    tmp_path, data, undisturbed, moments
):
    config = write_config(tmp_path, data, elastic=True, elastic_commit_steps=4)
    job = ElasticJob(tmp_path, config, workers=4)
    try:
        lose_one(job, tmp_path, signal.SIGKILL, 2, moments)
        lose_one(job, tmp_path, signal.SIGKILL, 0, moments)
    finally:
        job.end()

    assert job.launcher.returncode == 0, job.output()
    assert_same_run(newest(tmp_path / "run"), undisturbed)
    assert_one_registered_run(tmp_path, workers=2)


def test_a_run_goes_on_without_a_frozen_worker_and_with_one_that_comes_later(tmp_path, data, undisturbed, moments):
    # Who comes later must find the run still there.
    slow = ["tests.training.user_code:TakesItsTime"]
    config = write_config(tmp_path, data, elastic=True, elastic_commit_steps=4, stall_s=5.0, callbacks=slow)
    # On a busy machine TensorFlow's import alone may take a minute.
    job = ElasticJob(tmp_path, config, workers=3, HOROVOD_GLOO_TIMEOUT_SECONDS="120", EPOCH_S="0.7")
    try:
        lose_one(job, tmp_path, signal.SIGSTOP, 1, moments)
        # Horovod tells of a new host once, and workers that are just coming together do not hear it.
        done = epochs_done(tmp_path)
        job.wait_for(lambda: epochs_done(tmp_path) > done + 1)
        job.offer(4)
        # It begins with three, and again with three.
        job.wait_for(lambda: job.output().count(" 3 worker(s)") == 2)
    finally:
        job.end()

    assert job.launcher.returncode == 0, job.output()
    assert_same_run(newest(tmp_path / "run"), undisturbed)
    assert_one_registered_run(tmp_path, workers=3)
