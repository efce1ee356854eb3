"""docs/serving.md says what the program does."""

import re
from pathlib import Path

import pytest

from serving.routes.answers import STATUSES
from serving.settings import documented_settings

TEXT = (Path(__file__).parents[2] / "docs" / "serving.md").read_text()


@pytest.mark.parametrize(("variable", "kind", "default", "meaning"), [*documented_settings()])
def test_every_setting_is_in_the_table(variable, kind, default, meaning):
    assert f"| `{variable}` | {kind} | {default} | {meaning} |" in TEXT


def test_no_other_setting_is_named():
    known = {variable for variable, *_ in documented_settings()}

    assert set(re.findall(r"TFPIPE_\w*[A-Z](?=\b[^_*])", TEXT)) <= known


def test_every_status_and_code_is_in_the_table():
    for _, status, code in STATUSES:
        assert re.search(rf"\| {status} \| .*`{code}`", TEXT)
