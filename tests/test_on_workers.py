"""Starts the tests of tests/workers under horovodrun."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.horovod, pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parent.parent
# Not a power of two, so that shares of a batch differ.
WORKERS = 3


def test_properties_over_workers_hold():
    command = [
        str(Path(sys.executable).with_name("horovodrun")), "-np", str(WORKERS),
        sys.executable, "-m", "pytest", "tests/workers", "-q", "-p", "no:cacheprovider", "--timeout=800",
    ]  # fmt: skip

    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=850, check=False,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )  # fmt: skip

    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    assert done.stdout.count(" passed") >= WORKERS
