"""tfpipe's commands in processes of their own, as users type them."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def run(command: Sequence[str], folder: Path) -> str:
    """Run a command in a folder; what it wrote. AssertionError where it fails."""
    # As in a fresh clone: nothing but the default store, below the folder.
    inherited = {name: v for name, v in os.environ.items() if not name.startswith(("TFPIPE_", "MLFLOW_"))}
    done = subprocess.run(
        command, cwd=folder, env={**inherited, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def module(name: str, *arguments: str) -> list[str]:
    """`python -m name ...`."""
    return [sys.executable, "-m", name, *arguments]


def on_workers(count: int, *command: str) -> list[str]:
    """`horovodrun -np count ...`."""
    return [str(Path(sys.executable).with_name("horovodrun")), "-np", str(count), *command]
