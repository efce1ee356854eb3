"""The tutorials, word by word, in an empty folder."""

import pytest

from tests.doc_commands import ROOT, free_ports, run_as_typed, script

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]


@pytest.mark.parametrize("subject", ["images", "texts"])
def test_a_tutorial_ends_in_answers(subject, tmp_path):
    (port,) = free_ports(1)
    typed = script(ROOT / "docs" / f"tutorial-{subject}.md").replace(":8000", f":{port}")

    done = run_as_typed(typed, tmp_path, TFPIPE_SERVING_PORT=port)

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count('"latency_ms"') >= 2
