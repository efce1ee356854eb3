"""What `make demo` says before anything runs; the road itself is walked by the end-to-end tests."""

import runpy
import subprocess
import sys

import pytest

from tests.commands import ROOT

DEMO = ROOT / "examples" / "demo.py"


def test_an_unknown_task_says_what_there_is():
    done = subprocess.run([sys.executable, DEMO, "audio"], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (2, "TASK: expected image or text, received 'audio'.\n")


def test_a_service_that_does_not_start_says_why(tmp_path):
    service = runpy.run_path(str(DEMO))["service"]

    with pytest.raises(SystemExit, match="nowhere: expected a bundle"), service(tmp_path / "nowhere"):
        pass


def test_the_messages_asked_about_are_none_of_the_training_data():
    known = (ROOT / "tfpipe" / "data" / "embedded" / "support_messages.tsv").read_text(encoding="utf-8").casefold()

    messages = runpy.run_path(str(DEMO))["MESSAGES"]

    assert [message for message in messages if message.casefold() in known] == []
