"""The outermost edge of a command: exit codes, sentences, signals."""

import errno
import os
import signal
import subprocess
import sys

import pytest

from tfpipe.core import errors
from tfpipe.startup import quiet_libraries, run_command

# A command of its own process: what it does is given as source.
PROGRAM = """
import sys
from tfpipe.startup import run_command
def command():
    {source}
    return 0
sys.exit(run_command(command))
"""


def raising(error):
    def command():
        raise error

    return command


@pytest.mark.parametrize(
    ("kind", "exit_code"),
    [
        (errors.ConfigError, 2),
        (errors.DataError, 2),
        (errors.DecodeError, 2),
        (errors.SignatureError, 2),
        (errors.CheckpointError, 2),
        (errors.BundleError, 2),
        (errors.RegistryError, 2),
        (errors.TrackingError, 1),
        (errors.ConversionError, 1),
        (errors.TrainingError, 1),
        (errors.GateError, 3),
    ],
)
def test_an_error_of_ours_is_one_line_and_its_exit_code(capsys, kind, exit_code):
    code = run_command(raising(kind("data.path: expected a folder, received 'x'.")))

    assert (code, capsys.readouterr().err) == (exit_code, "error: data.path: expected a folder, received 'x'.\n")


def test_what_a_command_returns_is_the_exit_code(capsys):
    assert [run_command(lambda: 0), run_command(lambda: 3)] == [0, 3]
    assert capsys.readouterr().err == ""


def test_news_of_libraries_without_a_name_is_not_told():
    source = (
        "import logging; logging.info('news'); logging.warning('trouble'); logging.getLogger('tfpipe').info('ours')"
    )

    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(source=source)], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.stderr == "trouble\nours\n"


def test_garbage_is_not_looked_for_all_the_while_that_libraries_are_imported():
    source = (
        "import gc; looks = lambda: gc.get_stats()[0]['collections']; before = looks(); "
        "objects = [[] for _ in range(10_000)]; print(looks() - before)"
    )

    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(source=source)], capture_output=True, text=True, timeout=60, check=True
    )

    assert int(done.stdout) <= 1


def test_a_stop_is_told_as_such(capsys):
    code = run_command(raising(errors.StoppedError("the state is saved.")))

    assert (code, capsys.readouterr().err) == (75, "stopped: the state is saved.\n")


def test_an_error_of_the_system_names_the_file(capsys):
    code = run_command(raising(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "out/model.keras")))

    assert (code, capsys.readouterr().err) == (1, "error: out/model.keras: No space left on device.\n")


def test_a_bug_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        run_command(raising(ZeroDivisionError()))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_command_with_exit_code_75_after_it_cleaned_up(number):
    source = (
        "try:\n        print('begun', flush=True)\n        __import__('time').sleep(60)\n    finally:\n"
        "        print('cleaned up')"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(source=source)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "begun\n"

    process.send_signal(number)
    output, error = process.communicate(timeout=30)

    assert (process.returncode, output) == (75, "cleaned up\n")
    assert error == "stopped: interrupted before it was done; start it again.\n"


def test_a_reader_that_goes_away_is_no_traceback():
    source = "print('x' * 1_000_000, flush=True)"
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(source=source)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    process.stdout.read(10)
    process.stdout.close()

    error = process.stderr.read()

    assert (process.wait(timeout=30), error) == (1, "")
    process.stderr.close()


def test_handlers_are_as_before_when_a_command_is_done():
    before = signal.getsignal(signal.SIGTERM)

    run_command(lambda: 0)

    assert signal.getsignal(signal.SIGTERM) is before


def test_what_the_user_set_for_libraries_is_kept(monkeypatch):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    monkeypatch.delenv("KERAS_BACKEND", raising=False)

    quiet_libraries()

    assert (os.environ["TF_CPP_MIN_LOG_LEVEL"], os.environ["KERAS_BACKEND"]) == ("0", "tensorflow")
