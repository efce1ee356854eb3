"""docs/metrics.md says what the program counts."""

import re
from pathlib import Path

from serving.metric_table import METRICS, STAGES

TEXT = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()


def test_the_table_is_that_of_the_code():
    rows = [
        f"| `{one.name}` | {one.kind} | {', '.join(f'`{label}`' for label in one.labels) or 'none'} | {one.text} |"
        for one in METRICS
    ]

    assert re.findall(r"^\| `tfpipe_.*$", TEXT, re.MULTILINE) == rows


def test_every_stage_is_named():
    assert all(stage in TEXT for stage in STAGES)
