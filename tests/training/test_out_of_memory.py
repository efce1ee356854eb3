"""A step that does not fit into memory, on a machine that has less from one moment to the next."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.small_runs import small_config, write_class_folders

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]

ROOT = Path(__file__).resolve().parent.parent.parent
# Room for a batch of images (400 MB), not for the first convolution's output (4 GiB).
ROOM_MIB = 2500
TRAIN_WITH_LITTLE_ROOM = f"""
import resource, sys
import psutil
import tensorflow as tf
from tfpipe.train import main
limit = psutil.Process().memory_info().vms + ({ROOM_MIB} << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
sys.exit(main(sys.argv[1:]))
"""


def test_out_of_memory_is_told_with_what_to_try_and_nothing_is_tried_again(tmp_path):
    small_config(tmp_path, write_class_folders(tmp_path / "data", num_samples=44))
    overrides = ["model.name=small_cnn", "preprocessing.image_size=[1024,1024]", "training.batch_size=32"]
    # oneDNN's convolution goes on without its memory, and crashes.
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}

    done = subprocess.run(
        [sys.executable, "-c", TRAIN_WITH_LITTLE_ROOM, "--config", str(tmp_path / "config.yaml"), *overrides],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip

    assert done.returncode == 1, done.stderr
    told = "out of memory with training.batch_size=32 and training.accumulation_steps=1. Try "
    assert f"{told}training.accumulation_steps=2, which trains the same in smaller pieces" in done.stderr
    assert "or training.batch_size=16." in done.stderr
    # The convolution, or already one of the batches that are read ahead.
    assert "TensorFlow says: " in done.stderr
    assert "Traceback" not in done.stderr
    assert json.loads((tmp_path / "run" / "status.json").read_text())["reason"].startswith("out of memory")
