"""What docs/deployment.md promises of the manifests: times, sizes, and who may reach whom."""

import re
from urllib.parse import urlsplit

import pytest
import yaml

from tests.deploy.manifests import KUBERNETES, OVERLAYS, only, resources, service_pod, settings_of
from tests.deploy.monitoring_files import rules

_UNITS = {"": 1.0, "m": 1e-3, "Ki": 2.0**10, "Mi": 2.0**20, "Gi": 2.0**30}


@pytest.fixture(params=OVERLAYS)
def overlay(request):
    return f"overlays/{request.param}"


def amount(quantity):
    """A quantity of Kubernetes as a number: "500m" is 0.5."""
    number, unit = re.fullmatch(r"([\d.]+)(\w*)", str(quantity)).groups()
    return float(number) * _UNITS[unit]


def patience_s(probe):
    return probe["periodSeconds"] * probe["failureThreshold"]


def test_a_start_may_take_ten_minutes_and_silence_a_minute(overlay):
    _, _, container = service_pod(overlay)

    assert patience_s(container["startupProbe"]) == 600
    assert patience_s(container["livenessProbe"]) == 60
    # A pod that takes nothing more is left out at once, and comes back at once.
    assert patience_s(container["readinessProbe"]) <= 10


def test_load_balancers_have_five_seconds_to_hear_that_a_pod_goes(overlay):
    _, _, container = service_pod(overlay)

    assert container["lifecycle"]["preStop"] == {"sleep": {"seconds": 5}}


@pytest.mark.parametrize(
    ("overlay", "rolling"),
    [
        ("overlays/cpu", {"maxSurge": 1, "maxUnavailable": 0}),
        ("overlays/gpu", {"maxSurge": 0, "maxUnavailable": 1}),
    ],
)
def test_a_roll_out_takes_no_replica_away_where_there_is_room_for_another(overlay, rolling):
    assert only(overlay, "Deployment")["spec"]["strategy"] == {"type": "RollingUpdate", "rollingUpdate": rolling}


def test_one_pod_at_a_time_may_be_disrupted_and_pods_are_spread(overlay):
    _, pod, _ = service_pod(overlay)

    assert only(overlay, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    assert [(rule["topologyKey"], rule["maxSkew"]) for rule in pod["topologySpreadConstraints"]] == [
        ("topology.kubernetes.io/zone", 1), ("kubernetes.io/hostname", 1),
    ]  # fmt: skip


def test_what_volumes_may_hold_is_within_what_the_pod_may(overlay):
    _, pod, container = service_pod(overlay)
    sizes = [amount(volume["emptyDir"]["sizeLimit"]) for volume in pod["volumes"] if "emptyDir" in volume]

    # Several bundles: versions are switched with both on disk.
    assert max(sizes) >= 2**32
    assert sum(sizes) <= amount(container["resources"]["limits"]["ephemeral-storage"])


@pytest.mark.parametrize(("overlay", "most"), [("overlays/cpu", 10), ("overlays/gpu", 4)])
def test_it_scales_by_a_batch_that_waits_and_by_seconds_of_latency(overlay, most):
    settings = settings_of(only(overlay, "ConfigMap")["data"])
    spec = only(overlay, "HorizontalPodAutoscaler")["spec"]
    targets = {
        metric["pods"]["metric"]["name"]: amount(metric["pods"]["target"]["averageValue"]) for metric in spec["metrics"]
    }
    [slow] = [rule["expr"] for rule in rules("alert") if rule["alert"] == "TfpipeLatencyHigh"]

    assert (spec["minReplicas"], spec["maxReplicas"]) == (2, most)
    assert targets["tfpipe_queue_rows_mean"] == settings.max_batch_size
    # Replicas are added before somebody is told, and not for a request that is merely not alone.
    assert 0.1 <= targets["tfpipe_latency_p95_seconds"] <= float(slow.rpartition("> ")[2])


def test_the_autoscaler_sees_a_minutes_queue_and_95_of_100_requests():
    rows, latency = yaml.safe_load((KUBERNETES / "prometheus-adapter.yaml").read_text())["rules"]["custom"]

    assert "avg_over_time(<<.Series>>{<<.LabelMatchers>>}[1m])" in rows["metricsQuery"]
    assert latency["metricsQuery"].startswith("histogram_quantile(0.95, sum by (le, ")
    # Refusals are quick: counted, they would take replicas away where there are too few.
    assert "tfpipe_answer_latency_seconds_bucket" in latency["seriesQuery"]


def test_the_service_may_ask_for_names_and_reach_its_registry_and_nobody_else(overlay):
    registry = urlsplit(only(overlay, "ConfigMap")["data"]["MLFLOW_TRACKING_URI"])
    policy = only(overlay, "NetworkPolicy")["spec"]
    [names, tracking] = policy["egress"]
    [namespace] = [peer["namespaceSelector"]["matchLabels"] for peer in tracking["to"]]

    assert policy["policyTypes"] == ["Ingress", "Egress"]
    assert [(port["protocol"], port["port"]) for port in names["ports"]] == [("UDP", 53), ("TCP", 53)]
    assert [port["port"] for port in tracking["ports"]] == [registry.port]
    assert namespace == {"kubernetes.io/metadata.name": registry.hostname.split(".")[1]}


def test_clients_reach_both_ports_and_prometheus_the_one_that_it_scrapes(overlay):
    [clients, prometheus] = only(overlay, "NetworkPolicy")["spec"]["ingress"]
    [scraped] = only("monitoring", "PodMonitor")["spec"]["podMetricsEndpoints"]

    assert [port["port"] for port in clients["ports"]] == ["http", "grpc"]
    assert prometheus["from"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}]
    assert [port["port"] for port in prometheus["ports"]] == [scraped["port"]]


def test_services_lead_to_the_ports_of_the_pods_by_the_same_numbers(overlay):
    _, _, container = service_pod(overlay)
    expected = {port["name"]: port["containerPort"] for port in container["ports"]}
    services = {one["metadata"]["name"]: one["spec"] for one in resources(overlay) if one["kind"] == "Service"}

    for spec in services.values():
        assert {port["targetPort"]: port["port"] for port in spec["ports"]} == expected
        assert all(port["name"] == port["targetPort"] for port in spec["ports"])
    # One address a replica, and one of all.
    assert services["tfpipe-replicas"]["clusterIP"] == "None"
    assert "clusterIP" not in services["tfpipe"]


def test_prometheus_scrapes_as_often_wherever_it_runs():
    plain = yaml.safe_load((KUBERNETES.parent / "monitoring/prometheus/prometheus.yml").read_text())["global"]
    [scraped] = only("monitoring", "PodMonitor")["spec"]["podMetricsEndpoints"]

    # Rules look a minute and more into the past: four scrapes, so that one may be lost.
    assert plain["scrape_interval"] == plain["evaluation_interval"] == scraped["interval"] == "15s"


def test_a_canary_that_decided_is_not_started_again():
    # Exit codes of `tfpipe registry canary`: 2 wrong usage, 3 not promoted. Source: its --help.
    [rule] = only("canary", "Job")["spec"]["podFailurePolicy"]["rules"]

    assert rule["action"] == "FailJob"
    assert rule["onExitCodes"]["values"] == [2, 3]
