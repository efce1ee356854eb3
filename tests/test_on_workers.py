"""Starts the tests of tests/workers under horovodrun."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.horovod, pytest.mark.slow, pytest.mark.timeout(900)]

ROOT = Path(__file__).resolve().parent.parent
EQUIVALENCE = "tests/workers/test_equivalence.py"


# Three are no power of two, so that shares of a batch differ. Two are tried by whole runs: training/test_processes.py.
@pytest.mark.parametrize(("workers", "tests"), [(3, "tests/workers"), (4, EQUIVALENCE)])
def test_properties_over_workers_hold(workers, tests):
    command = [
        str(Path(sys.executable).with_name("horovodrun")), "-np", str(workers),
        sys.executable, "-m", "pytest", tests, "-q", "-p", "no:cacheprovider", "--timeout=800",
    ]  # fmt: skip

    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=850, check=False,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )  # fmt: skip

    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-3000:]
    assert done.stdout.count(" passed") >= workers
