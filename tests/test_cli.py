"""`tfpipe SUBCOMMAND`."""

import re
import signal
import subprocess
import sys

import pytest

import tfpipe
from tfpipe.cli import main


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["tfpipe", *arguments])
    return main()


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
def test_help_lists_every_command(monkeypatch, capsys, arguments):
    code = run(monkeypatch, *arguments)

    output = capsys.readouterr().out
    assert code == 0
    names = (
        "train", "convert", "verify", "tune", "predict", "export", "data", "bench", "monitor", "serve", "registry",
        "keys", "doctor",
    )  # fmt: skip
    for command in names:
        assert f"\n  {command} " in output


def test_the_version_is_the_packages(monkeypatch, capsys):
    code = run(monkeypatch, "--version")

    assert (code, capsys.readouterr().out) == (0, f"{tfpipe.__version__}\n")


def test_an_unknown_command_is_refused_with_the_nearest(monkeypatch, capsys):
    code = run(monkeypatch, "predcit")

    assert code == 2
    assert capsys.readouterr().err == (
        "tfpipe: expected a command of train, lr-find, convert, verify, tune, predict, export, data, bench, monitor, "
        "serve, registry, keys, doctor; received 'predcit'. Did you mean 'predict'?\n"
    )


def test_a_command_gets_the_other_words_and_its_exit_code_is_ours(monkeypatch, capsys, tmp_path):
    code = run(monkeypatch, "data", "validate", str(tmp_path / "nowhere"), "--output", str(tmp_path / "report"))

    assert code == 2
    assert "nowhere" in capsys.readouterr().err


def test_handlers_of_signals_are_as_before_when_a_command_is_done(monkeypatch, capsys, tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]

    run(monkeypatch, "data", "validate", str(tmp_path / "nowhere"), "--output", str(tmp_path / "report"))

    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize(
    ("command", "module"),
    [
        (["train"], "tfpipe.train"),
        (["tune"], "tfpipe.tune"),
        (["predict"], "tfpipe.predict"),
        (["doctor"], "tfpipe.doctor"),
        (["data", "validate"], "tfpipe.data validate"),
        (["data", "pack"], "tfpipe.data pack"),
    ],
)
def test_a_command_has_its_own_help(monkeypatch, capsys, command, module):
    with pytest.raises(SystemExit) as ended:
        run(monkeypatch, *command, "--help")

    assert ended.value.code == 0
    assert f"usage: python -m {module}" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--help"],
        ["tune", "--help"],
        ["bench", "--help"],
        ["predict", "--help"],
        ["convert", "--help"],
        ["lr-find", "--help"],
        ["data", "validate", "--help"],
    ],
)
def test_help_waits_for_no_library_of_seconds(arguments):
    done = run_without_libraries_of_seconds(*arguments)

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["gone", "gone.keras", "runs/gone/model.keras"])
def test_a_model_that_is_not_there_is_told_without_waiting_for_one(name):
    done = run_without_libraries_of_seconds("convert", "--model", name)

    assert done.returncode == 2
    assert re.fullmatch(rf"error: --model: expected models:/NAME/VERSION, .* found none at '{name}'\.\n", done.stderr)


def run_without_libraries_of_seconds(*arguments):
    """A command where those that take seconds to import cannot be imported."""
    program = (
        "import sys; sys.modules.update(dict.fromkeys(('tensorflow', 'keras', 'horovod', 'mlflow')));"
        "from tfpipe.cli import main; sys.exit(main())"
    )
    return subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
