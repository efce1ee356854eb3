"""What deploy/kubernetes/monitoring gives the Prometheus Operator: what to scrape, and when to alert."""

import importlib.util
import re

from tests.deploy.manifests import only, service_pod, state_paths
from tests.deploy.monitoring_files import RULES, read_yaml
from tests.deploy.tools import ROOT


def test_the_pod_monitor_scrapes_the_port_and_path_of_the_service():
    # Source: Prometheus Operator, API monitoring.coreos.com/v1: PodMonitorSpec.
    monitor = only("monitoring", "PodMonitor")
    template, _, container = service_pod("overlays/cpu")

    assert (monitor["apiVersion"], monitor["kind"]) == ("monitoring.coreos.com/v1", "PodMonitor")
    assert monitor["spec"].keys() == {"jobLabel", "selector", "podMetricsEndpoints"}
    # What the rules know the service by.
    assert template["metadata"]["labels"][monitor["spec"]["jobLabel"]] == "tfpipe"
    assert monitor["spec"]["selector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    [endpoint] = monitor["spec"]["podMetricsEndpoints"]
    assert endpoint["port"] in {port["name"] for port in container["ports"]}
    assert endpoint["path"] in state_paths()


def test_the_operators_rules_are_those_of_the_files_but_for_what_watches_prometheus():
    files = {path.name for path in RULES if path.name != "monitoring.yml"}

    groups = only("monitoring", "PrometheusRule")["spec"]["groups"]

    by_name = {group["name"]: group["rules"] for group in groups}
    expected = [group for path in RULES if path.name in files for group in read_yaml(path)["groups"]]
    assert len(groups) == len(by_name)
    assert by_name == {group["name"]: group["rules"] for group in expected}


def test_the_file_of_the_operators_rules_is_made_by_its_script():
    spec = importlib.util.spec_from_file_location("prometheus_rule", ROOT / "scripts" / "prometheus_rule.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)

    assert script.OBJECT.read_text() == script.rule_object(), "run scripts/prometheus_rule.py"


def test_the_operators_rules_have_the_fields_of_their_kind():
    # Source: Prometheus Operator, API monitoring.coreos.com/v1: PrometheusRuleSpec, RuleGroup, Rule.
    rule_object = only("monitoring", "PrometheusRule")
    length = re.compile(r"(\d+y)?(\d+w)?(\d+d)?(\d+h)?(\d+m)?(\d+s)?(\d+ms)?")

    assert rule_object["apiVersion"] == "monitoring.coreos.com/v1"
    assert rule_object["spec"].keys() == {"groups"}
    for group in rule_object["spec"]["groups"]:
        assert group.keys() == {"name", "rules"}
        for rule in group["rules"]:
            assert rule.keys() <= {"record", "alert", "expr", "for", "keep_firing_for", "labels", "annotations"}
            assert ("record" in rule) != ("alert" in rule)
            assert length.fullmatch(rule.get("for", "0s"))
            texts = [*rule.get("labels", {}).values(), *rule.get("annotations", {}).values(), rule["expr"]]
            assert all(isinstance(text, str) for text in texts)
