"""The stack of deploy/compose.yaml, as Docker Compose itself reads it."""

import json
import re

import pytest
import yaml

from serving.settings import ServingSettings, variable_of
from tests.deploy.tools import ROOT, run_tool

FILE = ROOT / "deploy" / "compose.yaml"
EXAMPLE = ROOT / "deploy" / ".env.example"
SECRETS = ("POSTGRES_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY", "GRAFANA_PASSWORD")


def read_stack(tmp_path, **changes):
    """What Compose makes of the file, and of the example of its environment, filled in."""
    values = {**dict.fromkeys(SECRETS, "x"), **changes}
    lines = [re.sub(r"^(\w+)=$", lambda found: f"{found[1]}={values.get(found[1], '')}", line) for line in _example()]
    env = tmp_path / "env"
    env.write_text("\n".join(lines) + "\n")
    return run_tool("docker-compose", "-f", FILE, "--env-file", env, "--profile", "train", "config", "--format", "json")


def _example():
    return EXAMPLE.read_text().splitlines()


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    done = read_stack(tmp_path_factory.mktemp("compose"))
    assert done.stdout, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("secret", SECRETS)
def test_it_does_not_start_without_a_password(tmp_path, secret):
    done = read_stack(tmp_path, **{secret: ""})

    assert not done.stdout
    assert f"required variable {secret} is missing a value" in done.stderr


def test_no_password_stands_in_a_file():
    assert {line.split("=")[0] for line in _example() if line.endswith("=")} >= set(SECRETS)
    assert "deploy/.env" in (ROOT / ".gitignore").read_text().splitlines()


def test_every_image_is_ours_or_named_by_version(stack):
    for name, service in stack["services"].items():
        assert "build" in service or re.search(r":(v|RELEASE\.)?\d+\.?\d", service["image"]), name


def test_ports_are_of_this_machine_alone(stack):
    for service in stack["services"].values():
        assert all(port["host_ip"] == "127.0.0.1" for port in service.get("ports", []))


def test_what_is_mounted_is_there(stack):
    mounted = [
        volume["source"]
        for service in stack["services"].values()
        for volume in service.get("volumes", [])
        if volume["type"] == "bind"
    ]

    assert mounted
    assert [path for path in mounted if not (ROOT / path).exists()] == []


def test_who_waits_for_health_waits_for_somebody_who_tells(stack):
    checked_by_image = {name for name, service in stack["services"].items() if "build" in service}
    for service in stack["services"].values():
        for other, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert other in checked_by_image or "healthcheck" in stack["services"][other], other


def test_a_secret_that_is_no_file_is_of_nobody_whose_root_is_read_only(stack):
    # Compose refuses to start such a service: it has to copy the secret into the root.
    # Source: docker/compose, pull request 12531.
    copied = {name for name, secret in stack["secrets"].items() if "file" not in secret}
    given = {
        name: {one["source"] for one in service.get("secrets", [])} & copied
        for name, service in stack["services"].items()
    }

    assert given["alertmanager"]
    assert [name for name, secrets in given.items() if secrets and stack["services"][name].get("read_only")] == []


def test_the_service_is_configured_by_its_settings_and_may_write_to_its_cache_alone(stack):
    service = stack["services"]["tfpipe"]

    known = {variable_of(name) for name in ServingSettings.model_fields}
    assert {name for name in service["environment"] if name.startswith("TFPIPE_")} <= known
    assert service["read_only"]
    assert service["cap_drop"] == ["ALL"]
    assert [volume["target"] for volume in service["volumes"]] == ["/var/cache/tfpipe"]


def test_the_profile_trains_and_converts_before_the_service_starts(stack):
    services = stack["services"]

    assert services["convert"]["depends_on"]["train"]["condition"] == "service_completed_successfully"
    assert services["tfpipe"]["depends_on"]["convert"] == {
        "condition": "service_completed_successfully", "required": False,
    }  # fmt: skip
    assert "AWS_ACCESS_KEY_ID" in services["mlflow"]["environment"]
    assert not [name for name in ("train", "convert", "tfpipe") if "AWS_ACCESS_KEY_ID" in services[name]["environment"]]


def test_addresses_of_the_monitoring_are_names_of_the_stack(stack):
    datasources = yaml.safe_load((ROOT / "deploy/monitoring/grafana/provisioning/datasources/tfpipe.yml").read_text())[
        "datasources"
    ]
    shipped = yaml.safe_load((ROOT / "deploy/monitoring/fluent-bit/fluent-bit.yaml").read_text())["pipeline"]
    logging = stack["services"]["tfpipe"]["logging"]

    named = [re.match(r"http://([\w-]+):(\d+)", source["url"]).groups() for source in datasources]
    named += [(one["host"], str(one["port"])) for one in shipped["outputs"]]
    assert {name for name, _ in named} <= set(stack["services"])
    assert ("loki", "3100") in named
    loki = yaml.safe_load((ROOT / "deploy/monitoring/loki/loki.yaml").read_text())
    assert loki["server"]["http_listen_port"] == 3100
    (port,) = stack["services"]["fluent-bit"]["ports"]
    assert logging["options"]["fluentd-address"] == f"{port['host_ip']}:{port['published']}"
    assert shipped["inputs"][0]["port"] == port["target"]


def test_who_asks_asks_where_somebody_listens(stack):
    listening = {"mlflow": "5000", "s3": "9000", "postgres": "5432"}
    values = [
        value
        for service in stack["services"].values()
        for value in (*service.get("environment", {}).values(), *(service.get("command") or ()))
    ]

    asked = {pair for value in values for pair in re.findall(r"//(?:[^@/]*@)?([a-z]\w*):(\d+)\b", str(value))}
    assert asked == set(listening.items())
    command = stack["services"]["mlflow"]["command"]
    assert "--port=5000" in command
    # Others are refused.
    [names] = [part.partition("=")[2].split(",") for part in command if part.startswith("--allowed-hosts")]
    assert set(names) == {"mlflow:5000", "localhost:5000", "127.0.0.1:5000"}


def test_artefacts_go_to_the_bucket_that_is_made(stack):
    [script] = stack["services"]["bucket"]["command"]
    [place] = [part for part in stack["services"]["mlflow"]["command"] if part.startswith("--artifacts-destination")]

    assert place == "--artifacts-destination=s3://mlflow"
    assert 'create_bucket(Bucket="mlflow")' in script


def test_health_is_asked_of_the_port_that_a_program_listens_at(stack):
    asked = {
        name: re.search(r"127\.0\.0\.1:(\d+)/", " ".join(service["healthcheck"]["test"]))
        for name, service in stack["services"].items()
        if "healthcheck" in service
    }

    assert {name: int(found[1]) for name, found in asked.items() if found} == {
        "prometheus": 9090, "alertmanager": 9093, "loki": 3100, "grafana": 3000,
    }  # fmt: skip
    published = {name: [port["target"] for port in one.get("ports", [])] for name, one in stack["services"].items()}
    assert [published[name] for name in ("prometheus", "alertmanager", "grafana")] == [[9090], [9093], [3000]]
    assert (published["tfpipe"], published["mlflow"]) == ([8000], [5000])


def test_the_service_is_given_the_time_that_it_drains_for(stack):
    seconds = float(stack["services"]["tfpipe"]["stop_grace_period"].removesuffix("s"))

    assert seconds >= ServingSettings(model="x").drain_ms / 1000 + 5


def test_prometheus_looks_for_names_and_ports_of_the_stack(stack):
    config = yaml.safe_load((ROOT / "deploy/monitoring/prometheus/prometheus.yml").read_text())
    by_name = {
        (*found["names"], found["port"]) for job in config["scrape_configs"] for found in job.get("dns_sd_configs", [])
    }
    by_address = {
        address
        for job in (*config["scrape_configs"], *config["alerting"]["alertmanagers"])
        for found in job.get("static_configs", [])
        for address in found["targets"]
    }

    assert by_name == {("tfpipe", ServingSettings(model="x").port), ("train", 9200)}
    assert "training.metrics_port=9200" in stack["services"]["train"]["command"]
    assert by_address == {"127.0.0.1:9090", "alertmanager:9093"}
    assert {name for name, _ in by_name} | {"alertmanager"} <= set(stack["services"])
