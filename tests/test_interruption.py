"""Ctrl-C and SIGTERM while the modules of a command are imported."""

import os
import signal
import subprocess
import sys

import pytest

from tfpipe.core.errors import StoppedError
from tfpipe.interruption import INTERRUPTED, SERVICE_STOPPED, STOPPED

# Stands before the libraries of which every command imports one: a slow disk, say.
LIBRARIES = ("numpy", "yaml")
SLOW_LIBRARY = "import time\nprint('importing', flush=True)\ntime.sleep(60)\n"
COMMANDS = ["train", "lr_find", "convert", "verify", "tune", "predict", "data", "bench", "monitor"]
STOPPED_COMMAND = (STOPPED, f"{INTERRUPTED}\n")
STOPPED_SERVICE = (0, f"{SERVICE_STOPPED}\n")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        *((["-m", f"tfpipe.{name}"], STOPPED_COMMAND) for name in COMMANDS),
        (["-m", "tfpipe.cli", "export"], STOPPED_COMMAND),
        (["-m", "tfpipe.cli", "keys"], STOPPED_COMMAND),
        (["-m", "serving"], STOPPED_SERVICE),
        (["-m", "tfpipe.cli", "serve"], STOPPED_SERVICE),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_command_that_is_interrupted_while_it_is_imported_says_so_in_a_line(tmp_path, words, expected):
    for library in LIBRARIES:
        (tmp_path / f"{library}.py").write_text(SLOW_LIBRARY)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen(
        [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout.readline() == "importing\n"

    process.send_signal(signal.SIGTERM if words[-1] == "predict" else signal.SIGINT)
    _, error = process.communicate(timeout=30)

    assert (process.returncode, error) == expected


def test_the_exit_code_is_that_of_what_was_stopped():
    assert StoppedError.exit_code == STOPPED
