"""What deploy/monitoring holds, for tests to look at."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from serving.metric_table import METRICS

ROOT = Path(__file__).resolve().parents[2]
MONITORING = ROOT / "deploy" / "monitoring"
PROMETHEUS = MONITORING / "prometheus"
DASHBOARDS = sorted((MONITORING / "grafana" / "dashboards").glob("*.json"))
RULES = sorted((PROMETHEUS / "rules").glob("*.yml"))
RULE_TESTS = sorted((PROMETHEUS / "tests").glob("*.test.yml"))

# Series of a histogram, beside its own name.
_SUFFIXES = {"histogram": ("_bucket", "_sum", "_count")}
SERVICE_SERIES = frozenset(
    f"{one.name}{suffix}" for one in METRICS for suffix in _SUFFIXES.get(one.kind, ("",))
)  # fmt: skip


def read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def rules(kind: str, files: Sequence[Path] = RULES) -> list[dict[str, Any]]:
    """All rules that are of a kind: "alert" or "record"."""
    groups = [group for path in files for group in read_yaml(path)["groups"]]
    return [rule for group in groups for rule in group["rules"] if kind in rule]


def panels(path: Path) -> list[dict[str, Any]]:
    """The panels of a dashboard that show something."""
    return [panel for panel in json.loads(path.read_text())["panels"] if panel["type"] != "row"]


def dashboard_queries(path: Path) -> Iterator[tuple[str, str]]:
    """Title of a panel, and PromQL with every variable at its widest; of annotations and variables too."""
    board = json.loads(path.read_text())
    asked = [(one["name"], one["expr"]) for one in board["annotations"]["list"]]
    for one in board["templating"]["list"]:
        if one["type"] == "query":
            asked += [(f"${one['name']}", re.sub(r"^label_values\((.*), \w+\)$", r"\1", one["query"]["query"]))]
    for panel in panels(path):
        if panel["datasource"]["type"] == "prometheus":
            asked += [(panel["title"], target["expr"]) for target in panel["targets"]]
    for title, query in asked:
        yield title, re.sub(r"\$(\w+)", lambda found: "1m" if found[1] == "__rate_interval" else ".*", query)


def series_in(query: str) -> set[str]:
    """Names of the series that a PromQL query asks for."""
    bare = re.sub(r'"[^"]*"', "", query)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", bare)
    bare = re.sub(r"\b(by|on|without|ignoring|group_left|group_right)\s*\([^)]*\)", "", bare)
    words = re.findall(r"(?<![\w:.])[a-zA-Z_][\w:]*(?!\s*\()(?![\w:])", bare)
    return set(words) - {"and", "or", "unless", "Inf", "by", "on", "group_left", "bool"}
