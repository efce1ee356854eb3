"""The manifests of deploy/kubernetes and horovod/, as kustomize makes them: Kubernetes' schemas, and the service."""

import os
import re
import shutil
import subprocess
import sys

import pytest
import yaml

from serving.keys_command import create_key
from serving.metric_table import METRICS
from tests.deploy.manifests import (
    KUBERNETES,
    OVERLAYS,
    VARIABLES,
    only,
    rendered,
    resources,
    service_pod,
    settings_of,
    state_paths,
)
from tests.deploy.tools import ROOT, run_tool
from tfpipe.rollout.command import parser

FOLDERS = (*(f"overlays/{name}" for name in OVERLAYS), "canary")
PAGE = ROOT / "docs" / "deployment.md"
TRAINING = ("horovod/kubernetes.yaml", "horovod/mpijob.yaml")
# What docs/deployment.md promises.
OLDEST = "1.30"
CLIENT = {"tfpipe-client": "true"}


@pytest.fixture(params=OVERLAYS)
def overlay(request):
    return f"overlays/{request.param}"


def with_schemas(document):
    """The document; of the operator's kind, which has no schema here, the pods that it starts."""
    if document["kind"] != "MPIJob":
        return [document]
    templates = [replica["template"] for replica in document["spec"]["mpiReplicaSpecs"].values()]
    return [{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": one["spec"]} for one in templates]


def test_everything_is_valid_by_kubernetes_schemas_and_what_is_not_is_seen(tmp_path):
    files = []
    for folder in FOLDERS:
        files.append(tmp_path / f"{folder.replace('/', '-')}.yaml")
        files[-1].write_text(rendered(folder))
    for name in TRAINING:
        files.append(tmp_path / name.replace("/", "-"))
        documents = [one for given in yaml.safe_load_all((ROOT / name).read_text()) for one in with_schemas(given)]
        files[-1].write_text(yaml.safe_dump_all(documents))
    wrong = only("overlays/cpu", "PodDisruptionBudget")
    wrong["spec"]["minAvailabel"] = 1
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(wrong))

    done = run_tool("kubernetes-validate", "-k", OLDEST, "--strict", *files, tmp_path / "wrong.yaml")

    said = (done.stdout + done.stderr).splitlines()
    findings = [line for line in said if not line.startswith("INFO")]
    assert findings
    assert [line for line in findings if "wrong.yaml" not in line and "minAvailabel" not in line] == []


def test_every_folder_that_is_applied_is_checked():
    folders = {str(path.parent.relative_to(KUBERNETES)) for path in KUBERNETES.rglob("kustomization.yaml")}

    assert folders == {*FOLDERS, "base", "monitoring"}


def test_variables_are_settings_of_the_service_with_values_that_it_takes(overlay):
    variables = only(overlay, "ConfigMap")["data"]

    assert set(variables) <= VARIABLES
    settings = settings_of(variables)
    assert settings.host == "0.0.0.0"


def test_ports_and_probes_are_those_of_the_service(overlay):
    settings = settings_of(only(overlay, "ConfigMap")["data"])
    _, _, container = service_pod(overlay)

    assert {port["name"]: port["containerPort"] for port in container["ports"]} == {
        "http": settings.port, "grpc": settings.grpc_port,
    }  # fmt: skip
    probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")}
    assert {probe["path"] for probe in probes.values()} <= state_paths()
    assert (probes["readiness"]["path"], probes["liveness"]["path"]) == ("/health/ready", "/health/live")
    assert {probe["port"] for probe in probes.values()} == {"http"}


def test_requests_have_time_to_finish_before_a_pod_is_killed(overlay):
    settings = settings_of(only(overlay, "ConfigMap")["data"])
    _, pod, container = service_pod(overlay)

    before = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] >= before + settings.drain_ms / 1000 + 5
    # What is in flight when the drain begins is answered or given up within it.
    assert max(settings.timeout_ms, settings.run_timeout_ms) <= settings.drain_ms


def test_a_roll_out_waits_at_least_as_long_as_a_start_may_take(overlay):
    _, _, container = service_pod(overlay)
    probe = container["startupProbe"]

    assert (
        only(overlay, "Deployment")["spec"]["progressDeadlineSeconds"]
        > probe["periodSeconds"] * probe["failureThreshold"]
    )


@pytest.mark.parametrize("folder", ["overlays/cpu", "overlays/gpu", "canary"])
def test_containers_have_no_right_that_they_do_not_need(folder):
    [workload] = [resource for resource in resources(folder) if resource["kind"] in ("Deployment", "Job")]
    pod = workload["spec"]["template"]["spec"]
    [container] = pod["containers"]

    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] >= 1000
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True, "capabilities": {"drop": ["ALL"]},
    }  # fmt: skip
    assert pod["automountServiceAccountToken"] is False
    assert pod["enableServiceLinks"] is False
    assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
    assert "memory" in container["resources"]["limits"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


def test_what_is_written_and_read_lies_in_mounted_folders(overlay):
    settings = settings_of(only(overlay, "ConfigMap")["data"])
    _, _, container = service_pod(overlay)
    mounts = {mount["mountPath"]: mount.get("readOnly", False) for mount in container["volumeMounts"]}

    assert mounts[str(settings.cache_dir)] is False
    assert mounts[str(settings.api_keys_file.parent)] is True


def test_selectors_take_the_pods_of_the_service_and_no_others(overlay):
    template, pod, _ = service_pod(overlay)
    labels = template["metadata"]["labels"].items()
    deployment, budget = only(overlay, "Deployment"), only(overlay, "PodDisruptionBudget")
    services = [resource for resource in resources(overlay) if resource["kind"] == "Service"]
    selectors = [
        deployment["spec"]["selector"]["matchLabels"],
        budget["spec"]["selector"]["matchLabels"],
        only(overlay, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
        *(service["spec"]["selector"] for service in services),
        *(rule["labelSelector"]["matchLabels"] for rule in pod["topologySpreadConstraints"]),
    ]

    assert {service["metadata"]["name"] for service in services} == {"tfpipe", "tfpipe-replicas"}
    for selector in selectors:
        assert selector
        assert selector.items() <= labels
    job = only("canary", "Job")["spec"]["template"]["metadata"]["labels"]
    assert not selectors[0].items() <= job.items()


def test_the_network_policy_lets_in_clients_and_the_canary(overlay):
    [clients, _] = only(overlay, "NetworkPolicy")["spec"]["ingress"]
    [pods, namespaces] = clients["from"]

    assert pods == {"podSelector": {"matchLabels": CLIENT}}
    assert namespaces == {"namespaceSelector": {"matchLabels": CLIENT}}
    assert CLIENT.items() <= only("canary", "Job")["spec"]["template"]["metadata"]["labels"].items()


def test_the_autoscaler_goes_by_metrics_that_the_adapter_makes_of_the_services(overlay):
    adapter = yaml.safe_load((KUBERNETES / "prometheus-adapter.yaml").read_text())
    made = {rule["name"]["as"]: rule for rule in adapter["rules"]["custom"]}
    exported = {name for metric in METRICS for name in (metric.name, f"{metric.name}_bucket")}
    autoscaler = only(overlay, "HorizontalPodAutoscaler")["spec"]

    asked = {metric["pods"]["metric"]["name"] for metric in autoscaler["metrics"]}
    assert asked == {"tfpipe_queue_rows_mean", "tfpipe_latency_p95_seconds"}
    assert asked <= made.keys()
    for rule in made.values():
        [series] = re.findall(r"^(\w+)\{", rule["seriesQuery"])
        assert series in exported
    assert autoscaler["scaleTargetRef"]["name"] == only(overlay, "Deployment")["metadata"]["name"]
    assert "replicas" not in only(overlay, "Deployment")["spec"]


def test_the_canary_asks_each_replica_by_its_address(tmp_path):
    [container] = only("canary", "Job")["spec"]["template"]["spec"]["containers"]
    program = tmp_path / "tfpipe"
    program.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    program.chmod(0o755)
    [script] = container["args"]
    assert '"tfpipe-replicas"' in script

    done = subprocess.run(
        [sys.executable, "-c", script.replace("tfpipe-replicas", "127.0.0.1")],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "VERSION": "4"},
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip

    program, command, *arguments = done.stdout.split()
    asked = parser().parse_args([command, *arguments])
    assert (program, asked.version) == ("registry", "4")
    assert asked.replicas == "http://127.0.0.1:8000"


def test_the_canary_tries_a_version_of_the_model_that_is_served_from_the_same_image():
    [container] = only("canary", "Job")["spec"]["template"]["spec"]["containers"]
    variables = {variable["name"]: variable.get("value") for variable in container["env"]}
    settings = only("overlays/cpu", "ConfigMap")["data"]
    _, _, service = service_pod("overlays/cpu")

    assert f"models:/{variables['TFPIPE_REGISTERED_MODEL']}@champion" == settings["TFPIPE_SERVING_MODEL"]
    assert variables["MLFLOW_TRACKING_URI"] == settings["MLFLOW_TRACKING_URI"]
    assert container["image"] == service["image"]


def test_the_canary_is_told_its_version_as_the_docs_say():
    command = "kubectl set env --local -f - VERSION=4 -o yaml"
    assert f"kubectl kustomize deploy/kubernetes/canary | {command} | kubectl apply -f -" in PAGE.read_text()

    done = run_tool(*command.split(), input=rendered("canary"))

    [container] = yaml.safe_load(done.stdout)["spec"]["template"]["spec"]["containers"]
    assert {"name": "VERSION", "value": "4"} in container["env"]


def test_the_secret_of_the_keys_is_made_as_the_docs_say(tmp_path):
    command = "tfpipe create secret generic tfpipe-keys --from-file=keys.yaml"
    assert f"kubectl -n {command}" in PAGE.read_text()
    create_key(tmp_path / "keys.yaml", {"name": "mobile-app", "scopes": ["predict"]})

    done = run_tool("kubectl", "-n", *command.split(), "--dry-run=client", "-o", "yaml", cwd=tmp_path)

    secret = yaml.safe_load(done.stdout)
    assert (secret["kind"], secret["metadata"]["name"]) == ("Secret", "tfpipe-keys")
    _, pod, _ = service_pod("overlays/cpu")
    path = settings_of(only("overlays/cpu", "ConfigMap")["data"]).api_keys_file
    assert list(secret["data"]) == [path.name]
    assert {"name": "keys", "secret": {"secretName": "tfpipe-keys", "defaultMode": 0o440}} in pod["volumes"]


def test_the_page_names_every_folder():
    text = PAGE.read_text()

    assert f"version {OLDEST}" in text
    assert [folder for folder in FOLDERS if folder.removeprefix("overlays/") not in text] == []


@pytest.mark.system
def test_prometheus_reads_the_queries_of_the_adapter(tmp_path):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    rules = yaml.safe_load((KUBERNETES / "prometheus-adapter.yaml").read_text())["rules"]["custom"]
    queries = [
        rule["metricsQuery"]
        .replace("<<.Series>>", re.match(r"\w+", rule["seriesQuery"])[0])
        .replace("<<.LabelMatchers>>", 'namespace="tfpipe",pod=~"tfpipe-1|tfpipe-2"')
        .replace("<<.GroupBy>>", "pod")
        for rule in rules
    ]
    recorded = [{"record": f"check_{number}", "expr": query} for number, query in enumerate(queries)]
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": [{"name": "adapter", "rules": recorded}]}))

    done = subprocess.run(
        [promtool, "check", "rules", tmp_path / "rules.yaml"], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_no_secret_is_in_the_files_and_a_pod_waits_for_that_of_the_keys(overlay):
    assert [resource for resource in resources(overlay) if resource["kind"] == "Secret"] == []
    _, pod, _ = service_pod(overlay)

    [keys] = [volume["secret"] for volume in pod["volumes"] if "secret" in volume]
    assert (keys["secretName"], keys.get("optional", False)) == ("tfpipe-keys", False)


def test_the_gpu_overlay_asks_for_one_gpu_and_the_provider_that_uses_it():
    _, pod, container = service_pod("overlays/gpu")

    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert settings_of(only("overlays/gpu", "ConfigMap")["data"]).provider == "cuda"
    assert pod["tolerations"]
    assert container["image"].endswith("tfpipe-serve-gpu:0.1.0")


def test_a_changed_setting_is_a_roll_out(tmp_path):
    copy = tmp_path / "kubernetes"
    shutil.copytree(KUBERNETES, copy)
    with (copy / "base" / "settings.env").open("a") as file:
        file.write("TFPIPE_SERVING_LOG_LEVEL=debug\n")

    done = run_tool("kubectl", "kustomize", copy / "overlays" / "cpu")

    [name] = re.findall(r"configMapRef:\n\s+name: (tfpipe-\w+)", done.stdout)
    assert name in done.stdout.split("configMapRef")[0]
    assert name not in rendered("overlays/cpu")


def test_the_operators_job_has_the_fields_of_its_kind():
    # Source: MPI Operator, API v2beta1: MPIJobSpec, RunPolicy, ReplicaSpec.
    job = yaml.safe_load((ROOT / "horovod" / "mpijob.yaml").read_text())
    spec = job["spec"]

    assert spec.keys() <= {
        "slotsPerWorker", "runLauncherAsWorker", "runPolicy", "mpiReplicaSpecs", "sshAuthMountPath",
        "launcherCreationPolicy", "mpiImplementation",
    }  # fmt: skip
    assert spec["runPolicy"].keys() <= {
        "cleanPodPolicy", "ttlSecondsAfterFinished", "activeDeadlineSeconds", "backoffLimit", "schedulingPolicy",
        "suspend", "managedBy",
    }  # fmt: skip
    assert spec["runPolicy"]["cleanPodPolicy"] in ("Running", "None", "All")
    assert spec["mpiReplicaSpecs"].keys() == {"Launcher", "Worker"}
    for replica in spec["mpiReplicaSpecs"].values():
        assert replica.keys() <= {"replicas", "template", "restartPolicy"}
        assert replica["restartPolicy"] in ("Never", "OnFailure", "Always", "ExitCode")
