"""`tfpipe doctor`, here, on a serve-only installation, and where things are broken."""

import json
import os
import socket
import sqlite3
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.stores import new_store
from tfpipe.doctor.checks import Answer, Wanted, ask, judge
from tfpipe.doctor.finding import Finding, healthy, to_table

ROOT = Path(__file__).resolve().parent.parent.parent
TRAINING_ONLY = ("tensorflow", "keras", "horovod", "tf2onnx", "tf_keras", "tensorboard")
NO_GPU = {"gpus": Answer({"gpus": []})}
TENSORFLOW = {
    "version": "2.17.1", "cuda": "12.3", "gpus": [], "tensorrt": False, "keras": "3.15.1", "backend": "tensorflow",
}  # fmt: skip


@pytest.fixture(scope="module")
def serve_only(tmp_path_factory):
    """The Python of an environment with all that is installed here but the training libraries."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    target = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not entry.name.lower().startswith(TRAINING_ONLY) and not (target / entry.name).exists():
            (target / entry.name).symlink_to(entry)
    return str(folder / "bin" / "python")


def doctor(python, *arguments, **environment):
    done = subprocess.run(
        [python, "-m", "tfpipe.doctor", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=500, check=False,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **environment},
    )  # fmt: skip
    assert "Traceback" not in done.stderr
    return done


def by_name(done):
    return {check["name"]: check for check in json.loads(done.stdout)["checks"]}


def wanted(tmp_path, *parts):
    return Wanted("", 8000, (tmp_path,), parts)


def finding(name, findings):
    return next(found for found in findings if found.name == name)


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.horovod
def test_here_everything_is_found_and_two_workers_really_add_up(tmp_path):
    done = doctor(sys.executable, "--json", "--store", f"sqlite:///{tmp_path}/mlflow.db", "--output", str(tmp_path))

    checks = by_name(done)
    assert done.returncode == 0, done.stdout
    assert json.loads(done.stdout)["parts"] == ["train", "horovod", "convert", "serve"]
    assert checks["two workers"]["found"] == "an allreduce gave the same sum to both"
    assert "Gloo: yes" in checks["Horovod"]["found"]
    assert checks["TensorFlow"]["found"].startswith("2.17.")


def test_a_serve_only_installation_is_judged_by_what_it_has(serve_only, tmp_path):
    done = doctor(serve_only, "--json", "--output", str(tmp_path), MLFLOW_TRACKING_URI=f"sqlite:///{tmp_path}/m.db")

    checks = by_name(done)
    assert done.returncode == 0, done.stdout
    assert json.loads(done.stdout)["parts"] == ["serve"]
    assert not {"TensorFlow", "Keras", "Horovod", "two workers", "g++"} & set(checks)
    assert "CPU" in checks["ONNX Runtime"]["found"]
    assert checks["MLflow store"]["found"] == f"sqlite:///{tmp_path}/m.db: none yet; the first run makes it"


def test_a_library_that_crashes_is_a_finding_with_its_signal(serve_only, tmp_path):
    (tmp_path / "onnxruntime.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n")

    done = doctor(serve_only, "--output", str(tmp_path), PYTHONPATH=str(tmp_path))

    assert done.returncode == 1
    assert "FAIL  ONNX Runtime" in done.stdout
    assert "ended by SIGSEGV" in done.stdout
    assert "mend it: make setup" in done.stdout


def test_a_probe_that_hangs_is_ended(tmp_path):
    answer = ask("port", "8000", timeout_s=0.001)

    assert answer == Answer({}, "no answer within 0.001 s")


def test_a_library_that_raises_is_told_by_its_last_line():
    assert ask("port", "eight thousand").problem.startswith("ValueError: invalid literal for int()")


def test_nothing_installed_is_a_failure(tmp_path):
    findings = judge(wanted(tmp_path), NO_GPU)

    assert finding("parts", findings) == Finding(
        "parts", "failed", "none", "one of train, convert, serve", "make setup"
    )


@pytest.mark.parametrize(
    ("facts", "name", "status", "found"),
    [
        ({}, "TensorFlow", "ok", "2.17.1, built for CUDA 12.3"),
        ({"version": "2.20.0", "cuda": None}, "TensorFlow", "failed", "2.20.0, built for CPUs"),
        ({"keras": "2.15.0"}, "Keras", "failed", "2.15.0"),
        ({"keras": "No module named 'keras'", "backend": None}, "Keras", "failed", "No module named 'keras'"),
        ({"backend": "jax"}, "Keras", "failed", "3.15.1 on jax"),
        ({"gpus": ["H100"]}, "TensorFlow's GPUs", "ok", "H100"),
    ],
)
def test_what_tensorflow_says_is_judged(tmp_path, facts, name, status, found):
    findings = judge(wanted(tmp_path, "train"), {**NO_GPU, "tensorflow": Answer(TENSORFLOW | facts)})

    result = finding(name, findings)
    assert (result.status, result.found) == (status, found)
    assert (result.fix == "") == (status == "ok")


def test_a_gpu_that_the_libraries_do_not_use_is_a_warning(tmp_path):
    answers = {
        "gpus": Answer({"gpus": ["H100, 80 GiB", "H100, 80 GiB"], "driver": "550"}),
        "tensorflow": Answer(TENSORFLOW),
        "onnxruntime": Answer({"version": "1.31.1", "providers": ["CPUExecutionProvider"]}),
        "horovod": Answer({"version": "0.28.1", "gloo": True, "mpi": False, "nccl": False}),
    }

    findings = judge(wanted(tmp_path, "train", "horovod", "serve"), answers)

    warned = {found.name: found.fix for found in findings if found.status == "warning"}
    assert "train-gpu" in warned["TensorFlow's GPUs"]
    assert "serve-gpu" in warned["ONNX Runtime"]
    assert "NCCL" in warned["Horovod"]


@pytest.mark.parametrize(
    ("answer", "status", "found"),
    [
        (Answer({"rank": 1, "size": 2, "sum": 3.0}), "ok", "an allreduce gave the same sum to both"),
        (Answer({"rank": 0, "size": 1, "sum": 1.0}), "failed", "received {'rank': 0, 'size': 1, 'sum': 1.0}"),
        (Answer({}, "no answer within 180 s"), "failed", "no answer within 180 s"),
        (Answer({}, "horovodrun: No such file or directory"), "failed", "horovodrun: No such file or directory"),
    ],
)
def test_two_workers_must_add_up(tmp_path, answer, status, found):
    result = finding("two workers", judge(wanted(tmp_path), {**NO_GPU, "two workers": answer}))

    assert (result.status, result.found) == (status, found)
    assert ("horovodrun" in result.fix) == (status == "failed")


def test_missing_tools_are_warnings_with_the_command_that_installs_them(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))

    findings = judge(wanted(tmp_path, "train"), NO_GPU)

    assert [(found.name, found.status, found.fix) for found in findings if found.found == "missing"] == [
        (name, "warning", f"sudo apt-get install {name}") for name in ("g++", "make", "cmake")
    ]
    assert finding("Horovod", findings).status == "warning"


def test_a_port_in_use_is_a_warning(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        answer = ask("port", str(number))

    result = finding(f"port {number}", judge(Wanted("", number, (), ()), {**NO_GPU, "port": answer}))
    assert (result.status, result.found) == ("warning", "Address already in use")


def test_a_folder_that_cannot_be_written_is_a_failure(tmp_path):
    if os.geteuid() == 0:
        folder = Path("/proc/self")  # nobody can write there
    else:
        folder = tmp_path / "closed"
        folder.mkdir(mode=0o500)

    result = finding(f"folder {folder}", judge(Wanted("", 8000, (folder,), ()), NO_GPU))

    assert result.status == "failed"


@pytest.mark.parametrize(
    ("prepare", "status", "text"),
    [
        (lambda path: new_store(path.parent), "ok", "can be written"),
        (lambda path: path.write_text("no database at all, only text"), "failed", "file is not a database"),
        (lambda path: sqlite3.connect(path).executescript("CREATE TABLE a (b)"), "failed", "without MLflow's tables"),
    ],
)
def test_the_store_is_opened_and_its_schema_compared(tmp_path, prepare, status, text):
    path = tmp_path / "mlflow.db"
    prepare(path)

    result = finding("MLflow store", judge(wanted(tmp_path), {**NO_GPU, "store": ask("store", f"sqlite:///{path}")}))

    assert result.status == status
    assert text in result.found


def test_a_store_of_an_older_mlflow_is_to_be_upgraded(tmp_path):
    path = tmp_path / "mlflow.db"
    new_store(tmp_path)
    with sqlite3.connect(path) as database:
        database.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")

    result = finding("MLflow store", judge(wanted(tmp_path), {**NO_GPU, "store": ask("store", f"sqlite:///{path}")}))

    assert (result.status, result.fix) == ("failed", f"mlflow db upgrade sqlite:///{path}")


def test_the_table_is_aligned_and_says_what_mends_what():
    findings = [Finding("Python", "ok", "3.11"), Finding("a longer name", "failed", "nothing", "something", "make it")]

    assert to_table(("serve",), findings, width=80).splitlines() == [
        "installed parts: serve",
        "",
        "ok    Python         3.11",
        "FAIL  a longer name  nothing",
        "                     expected: something",
        "                     mend it: make it",
        "",
        "1 ok, 0 warnings, 1 failed",
    ]
    assert not healthy(findings)
    assert healthy(findings[:1])
