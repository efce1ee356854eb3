"""The template of deploy/ecs, against CloudFormation's schemas and the service."""

import os
import subprocess
import sys

import pytest
import yaml

from serving.keys import read_keys
from tests.deploy.manifests import VARIABLES, settings_of, state_paths
from tests.deploy.tools import ROOT, run_tool

TEMPLATE = ROOT / "deploy" / "ecs" / "service.yaml"


class Loader(yaml.SafeLoader):
    """Reads !Ref and the like as what they are given."""


def _function(loader, _, node):
    read = {yaml.ScalarNode: loader.construct_scalar, yaml.SequenceNode: loader.construct_sequence}
    return read[type(node)](node)


Loader.add_multi_constructor("!", _function)


@pytest.fixture(scope="module")
def template():
    return yaml.load(TEMPLATE.read_text(), Loader)


@pytest.fixture(scope="module")
def containers(template):
    return {one["Name"]: one for one in template["Resources"]["Task"]["Properties"]["ContainerDefinitions"]}


def variables(container):
    """Those with values that are here and not in parameters."""
    return {one["Name"]: one["Value"] for one in container["Environment"]}


def test_cloudformation_takes_it_and_what_it_would_not_is_seen(tmp_path):
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(TEMPLATE.read_text().replace("StopTimeout", "StopTimeouts"))

    done = run_tool("cfn-lint", "--format", "parseable", "--regions", "us-east-1", "--", TEMPLATE, wrong)

    [finding] = done.stdout.splitlines()
    assert finding.startswith(str(wrong))
    assert "StopTimeouts" in finding


def test_variables_are_settings_of_the_service(containers):
    assert set(variables(containers["service"])) - {"TMPDIR"} <= VARIABLES


def test_port_and_health_are_those_of_the_service(template, containers):
    settings = settings_of(variables(containers["service"]))
    group = template["Resources"]["TargetGroup"]["Properties"]
    [port] = containers["service"]["PortMappings"]
    check = containers["service"]["HealthCheck"]["Command"][-1]

    assert {port["ContainerPort"], group["Port"], settings.port} == {8000}
    assert group["HealthCheckPath"] in state_paths()
    assert "http://127.0.0.1:8000/health/live" in check
    assert "/health/live" in state_paths()


def test_requests_have_time_to_finish_before_a_task_is_killed(containers):
    settings = settings_of(variables(containers["service"]))

    assert containers["service"]["StopTimeout"] >= settings.drain_ms / 1000 + 5
    assert containers["service"]["StopTimeout"] <= 120  # what Fargate allows
    assert max(settings.timeout_ms, settings.run_timeout_ms) <= settings.drain_ms


def test_the_keys_are_where_the_service_reads_them_and_for_nobody_else(containers, tmp_path):
    [script] = containers["keys"]["Command"]
    path = variables(containers["service"])["TFPIPE_SERVING_API_KEYS_FILE"]
    assert f'"{path}"' in script
    written = tmp_path / "keys.yaml"
    keys = f"- {{name: app, sha256: {'ab' * 32}, scopes: [predict]}}\n"

    subprocess.run(
        [sys.executable, "-c", script.replace(path, str(written))], env={**os.environ, "KEYS": keys}, check=True
    )

    assert [key.name for key in read_keys(written)] == ["app"]
    assert written.stat().st_mode & 0o777 == 0o600
    assert containers["service"]["DependsOn"] == [{"ContainerName": "keys", "Condition": "SUCCESS"}]


@pytest.mark.parametrize("name", ["keys", "service"])
def test_containers_have_no_right_that_they_do_not_need(containers, name):
    assert containers[name]["User"] == "10001:0"
    assert containers[name]["ReadonlyRootFilesystem"] is True
    assert containers[name]["LinuxParameters"] == {"Capabilities": {"Drop": ["ALL"]}}
    assert containers[name]["MountPoints"] == [
        {"SourceVolume": "cache", "ContainerPath": "/var/cache/tfpipe", "ReadOnly": False}
    ]
