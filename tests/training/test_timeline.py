"""Horovod's timeline, and what a run on two workers says about itself."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from tests.training.small_runs import small_values, write_class_folders
from tfpipe.training.checkpoints import load

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow, pytest.mark.timeout(300)]

ENVIRONMENT = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
TRAIN = [sys.executable, "-m", "tfpipe.train"]
# The launcher kills a worker five seconds after it asked it to end.
SAVED_WITHIN_S = 4.0


def write_config(folder, **training):
    values = small_values(folder, write_class_folders(folder / "data"), **training)
    values["tracking"]["registered_model"] = None
    path = folder / "given.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.horovod
def test_two_workers_leave_a_timeline_and_say_how_they_did(tmp_path):
    config = write_config(tmp_path, timeline=str(tmp_path / "traces" / "timeline.json"))
    horovodrun = str(Path(sys.executable).with_name("horovodrun"))

    done = subprocess.run(
        [horovodrun, "--gloo", "-np", "2", *TRAIN, "--config", str(config)],
        capture_output=True, text=True, timeout=250, env=ENVIRONMENT, check=False,
    )  # fmt: skip

    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    events = json.loads((tmp_path / "traces" / "timeline.json").read_text())
    assert any("ALLREDUCE" in event.get("name", "") for event in events)
    for words in ("scaling efficiency", "time of worker 1", "slowest worker", "peak memory"):
        assert words in output


def test_sigterm_leaves_a_whole_checkpoint_before_the_launcher_would_kill(tmp_path):
    config = write_config(tmp_path, epochs=2000)
    checkpoints = tmp_path / "run" / "checkpoints"
    process = subprocess.Popen([*TRAIN, "--config", str(config)], env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not any(checkpoints.glob("step-*")) and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)

    asked_s = time.time()
    process.terminate()
    _, errors = process.communicate(timeout=120)

    assert process.returncode == 75, errors
    newest = max(checkpoints.glob("step-*"))
    assert newest.stat().st_mtime - asked_s < SAVED_WITHIN_S
    assert f"{signal.Signals.SIGTERM.name} after step {load(newest)[1].step}; the state is saved" in errors
    assert not list(checkpoints.glob(".step-*"))
