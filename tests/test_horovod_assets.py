"""The launch assets of horovod/: they are read as Horovod and Kubernetes read them."""

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.hosts import local_host_names
from tfpipe.config import read_values

ASSETS = Path(__file__).resolve().parent.parent / "horovod"
SCRIPT = ASSETS / "discover_hosts.sh"
# Prints what the API server would, and keeps what it was asked.
KUBECTL = """#!/bin/sh
printf '%s\\n' "$*" >"$0.asked"
cat <<'END'
10.0.0.1,True,
10.0.0.2,False,
,,
10.0.0.3,True,2026-01-05T10:15:00Z
10.0.0.4,True,
END
"""


def discover(*arguments, **variables):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TFPIPE_")}
    return subprocess.run(
        [str(SCRIPT), *arguments],
        env={**environment, **variables}, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip


@pytest.fixture
def kubectl(tmp_path):
    program = tmp_path / "kubectl"
    program.write_text(KUBECTL)
    program.chmod(0o755)
    return program


def test_the_folder_holds_no_python_file():
    assert [path for path in ASSETS.rglob("*.py*") if path.suffix in (".py", ".pyi")] == []


@pytest.mark.horovod
@pytest.mark.parametrize("hostfile", sorted(ASSETS.glob("hostfile*")), ids=lambda path: path.name)
def test_horovodrun_reads_every_hostfile(hostfile):
    hosts = pytest.importorskip("horovod.runner.common.util.hosts")

    names, slots = hosts.parse_hosts_and_slots(hosts.parse_host_files(str(hostfile)))

    assert len(names) == len(slots) >= 1
    assert all(count >= 1 for count in slots.values())


@pytest.mark.horovod
def test_horovod_reads_what_the_script_prints():
    discovery = pytest.importorskip("horovod.runner.elastic.discovery")

    found = discovery.HostDiscoveryScript(f"{SCRIPT} list machine-1:2,machine-2:4", 1).find_available_hosts_and_slots()

    assert found == {"machine-1": 2, "machine-2": 4}


def test_a_fixed_list_by_argument_or_variable():
    by_argument = discover("list", "a:2,b,c:3")
    by_variable = discover(TFPIPE_HOSTS="a:2, b,c:3,", TFPIPE_SLOTS="9")

    assert (by_argument.returncode, by_argument.stdout.split()) == (0, ["a:2", "b:1", "c:3"])
    assert (by_variable.returncode, by_variable.stdout.split()) == (0, ["a:2", "b:9", "c:3"])


@pytest.mark.parametrize("by_argument", [True, False])
def test_a_file_in_each_form_with_comments_and_read_anew(tmp_path, by_argument):
    hostfile = tmp_path / "host file"
    hostfile.write_text("# ours\nmachine-1 slots=4\n\nmachine-2:3  # lent\r\nmachine-3\nmachine-1 slots=4\n")
    call = (("file", str(hostfile)), {}) if by_argument else ((), {"TFPIPE_HOSTFILE": str(hostfile)})

    first = discover(*call[0], **call[1], TFPIPE_SLOTS="2")
    hostfile.write_text("machine-9 slots=1\n")
    second = discover(*call[0], **call[1])

    assert first.stdout.split() == ["machine-1:4", "machine-2:3", "machine-3:2"], first.stderr
    assert second.stdout.split() == ["machine-9:1"]


def test_no_host_yet_is_no_line(tmp_path):
    (tmp_path / "hosts").write_text("# none yet\n")

    done = discover("file", str(tmp_path / "hosts"))

    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("by_argument", [True, False])
def test_the_addresses_of_a_name(tmp_path, by_argument):
    # As of a headless Service with two pods that are ready.
    getent = tmp_path / "getent"
    lines = [f"{address} {kind}" for address in ("10.0.0.4", "10.0.0.1") for kind in ("STREAM workers", "DGRAM", "RAW")]
    getent.write_text(
        "#!/bin/sh\n[ \"$*\" = 'ahostsv4 workers' ] || exit 2\n" + "".join(f"echo {line}\n" for line in lines)
    )
    getent.chmod(0o755)
    variables = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TFPIPE_SLOTS": "4"}
    arguments, named = (("dns", "workers"), {}) if by_argument else ((), {"TFPIPE_HOSTS_DNS": "workers"})

    done = discover(*arguments, **variables, **named)

    assert (done.returncode, done.stdout.split()) == (0, ["10.0.0.1:4", "10.0.0.4:4"]), done.stderr


def test_a_name_of_this_machine_is_looked_up_for_real():
    assert discover("dns", "localhost").stdout == "127.0.0.1:1\n"


@pytest.mark.parametrize("by_argument", [True, False])
def test_pods_that_are_ready_and_stay(kubectl, by_argument):
    variables = {"PATH": f"{kubectl.parent}:{os.environ['PATH']}", "TFPIPE_SLOTS": "4"}
    if by_argument:
        done = discover("kubernetes", "app=tfpipe-worker", **variables, TFPIPE_KUBERNETES_NAMESPACE="ml")
    else:
        done = discover(**variables, TFPIPE_KUBERNETES_SELECTOR="app=tfpipe-worker")

    assert (done.returncode, done.stdout.split()) == (0, ["10.0.0.1:4", "10.0.0.4:4"]), done.stderr
    asked = Path(f"{kubectl}.asked").read_text()
    assert "get pods" in asked
    assert "--selector app=tfpipe-worker" in asked
    assert ("--namespace ml" in asked) == by_argument


def test_a_cluster_that_does_not_answer_is_an_error_and_no_list(kubectl):
    kubectl.write_text("#!/bin/sh\necho 10.0.0.1,True,\necho 'connection refused' >&2\nexit 1\n")

    done = discover("kubernetes", "app=x", KUBECTL=str(kubectl))

    assert (done.returncode, done.stdout) == (1, "")
    assert "connection refused" in done.stderr
    assert "kubectl could not list the pods 'app=x'" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("list", "a:x"), "received `a:x`"),
        (("list", "a:0"), "received `a:0`"),
        (("list", "a:2:3"), "received `a:2:3`"),
        (("list", "good:1,a;b"), "received `a;b`"),
        (("file", "/nowhere/hosts"), "expected a hostfile that can be read, received '/nowhere/hosts'"),
        (("local", "many"), "expected a number of workers, received 'many'"),
        (("dns", "nowhere.invalid"), "expected a name that has addresses, received 'nowhere.invalid'"),
        (("kubernetes", "app=x"), "expected 'no-such-kubectl' on the PATH"),
        (("bogus",), "received 'bogus'"),
        (("list",), "received 'list'"),
    ],
)
def test_what_cannot_be_used_is_one_sentence_and_no_list(arguments, message):
    done = discover(*arguments, KUBECTL="no-such-kubectl")

    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_this_machine_under_several_names_that_all_mean_it():
    named = discover("local", "5").stdout.split()
    default = discover().stdout.split()

    hosts = [line.removesuffix(":1") for line in named]
    assert len(set(hosts)) == 5
    assert {socket.gethostbyname(host) for host in hosts} == {"127.0.0.1"}
    assert len(default) >= 2
    assert set(default[:5]) <= set(named)


def test_the_names_that_tests_give_this_machine_are_several_and_mean_it():
    names = local_host_names(7)

    assert len(set(names)) == 7
    assert {socket.gethostbyname(name) for name in names} == {"127.0.0.1"}


@pytest.mark.system
def test_the_script_has_no_finding():
    shellcheck = shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("shellcheck is not installed")

    done = subprocess.run([shellcheck, str(SCRIPT)], capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stdout


def containers(document):
    if document["kind"] == "MPIJob":
        templates = [replica["template"] for replica in document["spec"]["mpiReplicaSpecs"].values()]
    else:
        templates = [document["spec"]["template"]]
    return [(template["spec"], container) for template in templates for container in template["spec"]["containers"]]


WORKLOADS = [
    (path.name, document)
    for path in sorted(ASSETS.glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
    if document["kind"] in ("MPIJob", "StatefulSet", "Job")
]


@pytest.mark.parametrize(("name", "document"), WORKLOADS, ids=[f"{n}-{d['kind']}" for n, d in WORKLOADS])
def test_kubernetes_files_mount_what_they_declare_and_run_shell_that_parses(name, document):
    for pod, container in containers(document):
        declared = {volume["name"] for volume in pod["volumes"]}
        assert {mount["name"] for mount in container["volumeMounts"]} <= declared
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}
        [script] = container["args"]
        assert subprocess.run(["sh", "-n", "-c", script], timeout=30, check=False).returncode == 0
        if "tfpipe.train" in script:
            overrides = [word for word in script.split("tfpipe.train")[1].split() if "=" in word]
            assert overrides
            assert read_values(None, overrides)


def test_the_mpi_job_starts_as_many_workers_as_it_has_slots():
    job = yaml.safe_load((ASSETS / "mpijob.yaml").read_text())

    replicas = job["spec"]["mpiReplicaSpecs"]
    command = replicas["Launcher"]["template"]["spec"]["containers"][0]["args"][0]
    assert (job["apiVersion"], job["kind"]) == ("kubeflow.org/v2beta1", "MPIJob")
    assert f"-np {replicas['Worker']['replicas'] * job['spec']['slotsPerWorker']} " in command


def test_the_launcher_in_kubernetes_finds_the_workers_by_their_service():
    by_kind = {d["kind"]: d for d in yaml.safe_load_all((ASSETS / "kubernetes.yaml").read_text())}

    [launcher] = by_kind["Job"]["spec"]["template"]["spec"]["containers"]
    variables = {variable["name"]: variable["value"] for variable in launcher["env"]}
    service, workers = by_kind["Service"], by_kind["StatefulSet"]["spec"]
    assert service["spec"]["clusterIP"] == "None"
    assert variables["TFPIPE_HOSTS_DNS"] == service["metadata"]["name"] == workers["serviceName"]
    assert (
        service["spec"]["selector"] == workers["template"]["metadata"]["labels"] == workers["selector"]["matchLabels"]
    )


@pytest.mark.parametrize(("name", "document"), WORKLOADS, ids=[f"{n}-{d['kind']}" for n, d in WORKLOADS])
def test_pods_that_train_are_nobodys_root_and_ask_nothing_of_the_cluster(name, document):
    for pod, container in containers(document):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert (pod["automountServiceAccountToken"], pod["enableServiceLinks"]) == (False, False)
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def test_launchers_use_the_port_that_workers_listen_on():
    for name in ("kubernetes.yaml", "mpijob.yaml"):
        text = (ASSETS / name).read_text()

        assert "--ssh-port 2222" in text
        assert "sshd -De -f /dev/null -p 2222" in text
