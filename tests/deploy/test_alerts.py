"""Every alert says how bad it is, has its page, and is proved to fire and not to fire."""

import re
import shutil
import subprocess

import pytest

from serving.routes.answers import STATUSES
from tests.deploy.monitoring_files import (
    MONITORING,
    PROMETHEUS,
    ROOT,
    RULE_TESTS,
    SERVICE_SERIES,
    read_yaml,
    rules,
    series_in,
)

ALERTS = rules("alert")
RUNBOOKS = ROOT / "docs" / "runbooks"
# Pages that are of no alert.
OTHER_PAGES = {"README.md", "incident-template.md"}

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="no promtool here; on Debian: apt-get install prometheus"
)
needs_amtool = pytest.mark.skipif(
    shutil.which("amtool") is None, reason="no amtool here; on Debian: apt-get install prometheus-alertmanager"
)


@pytest.fixture(params=ALERTS, ids=lambda rule: rule["alert"])
def alert(request):
    return request.param


def run(*command):
    done = subprocess.run(command, cwd=PROMETHEUS, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_runbook_and_every_runbook_an_alert():
    named = [rule["annotations"]["runbook_url"] for rule in ALERTS]
    there = {str(page.relative_to(ROOT)) for page in RUNBOOKS.glob("*.md") if page.name not in OTHER_PAGES}

    assert len(set(named)) == len(named)
    assert set(named) == there


def test_an_alert_says_how_bad_it_is_and_what_it_means(alert):
    assert alert["labels"]["severity"] in ("critical", "warning")
    assert alert["annotations"].keys() == {"summary", "description", "runbook_url"}


def test_a_runbook_is_of_its_alert_and_has_all_parts(alert):
    page = (ROOT / alert["annotations"]["runbook_url"]).read_text()

    assert page.startswith(f"# {alert['alert']}\n")
    assert re.findall(r"^## (.*)$", page, re.MULTILINE) == ["What it means", "How to look", "How to mend"]


def test_the_table_of_alerts_is_that_of_the_rules():
    text = (ROOT / "docs" / "monitoring.md").read_text()

    rows = re.findall(r"^\| \[(Tfpipe\w+)\]\((\S+)\) \| (\w+) \| (\S+) \|", text, re.MULTILINE)
    assert sorted(rows) == sorted(
        (
            rule["alert"],
            rule["annotations"]["runbook_url"].removeprefix("docs/"),
            rule["labels"]["severity"],
            rule.get("for", "0m"),
        )
        for rule in ALERTS
    )


def test_series_of_the_service_that_rules_ask_for_are_ones_that_it_has(alert):
    recorded = {rule["record"]: rule["expr"] for rule in rules("record")}
    asked = series_in(alert["expr"])
    asked |= set().union(*(series_in(recorded[name]) for name in asked & recorded.keys()))

    known = SERVICE_SERIES | recorded.keys()
    assert {name for name in asked if name.startswith("tfpipe_") and not name.startswith("tfpipe_train_")} <= known
    assert {name for name in asked if ":" in name} <= recorded.keys()


def test_error_codes_that_rules_ask_for_are_ones_that_the_service_has():
    asked = {
        code
        for rule in (*ALERTS, *rules("record"))
        for code in re.findall(r'tfpipe_errors_total\{type="(\w+)"', rule["expr"])
    }

    assert asked == {"queue_full", "breaker_open"}
    assert asked <= {code for _, _, code in STATUSES}


def test_every_alert_is_tested_to_fire_and_not_to_fire():
    fires, quiet = set(), set()
    for path in RULE_TESTS:
        for case in cases(path):
            (quiet if case["exp_samples"] == [] else fires).update(named(case, path))

    names = {rule["alert"] for rule in ALERTS}
    assert fires == names
    assert quiet == names


def cases(path):
    return [case for test in read_yaml(path)["tests"] for case in test.get("promql_expr_test", [])]


def named(case, path):
    """The alerts that a case is about: those that it expects; where it expects none, those that its query matches."""
    expected = " ".join(sample["labels"] for sample in case["exp_samples"]) or case["expr"]
    patterns = re.findall(r'alertname=~?"([^"]+)"', expected) or [".*"]
    tested = rules("alert", [path.parent / file for file in read_yaml(path)["rule_files"]])
    return {rule["alert"] for rule in tested for pattern in patterns if re.fullmatch(pattern, rule["alert"])}


@pytest.mark.system
@needs_promtool
def test_prometheus_takes_the_configuration_and_the_rules():
    run("promtool", "check", "config", "prometheus.yml")


@pytest.mark.system
@needs_promtool
@pytest.mark.parametrize("path", RULE_TESTS, ids=lambda path: path.name)
def test_alerts_fire_and_do_not_fire(path):
    run("promtool", "test", "rules", str(path))


@pytest.mark.system
@needs_amtool
def test_alertmanager_takes_its_configuration():
    run("amtool", "check-config", str(MONITORING / "alertmanager" / "alertmanager.yml"))


@pytest.mark.system
@needs_amtool
@pytest.mark.parametrize("severity", ["critical", "warning"])
def test_each_severity_has_its_receiver(severity):
    config = str(MONITORING / "alertmanager" / "alertmanager.yml")
    command = ["amtool", "config", "routes", "test", f"--config.file={config}", f"severity={severity}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout.strip() == {"critical": "critical", "warning": "warnings"}[severity]
