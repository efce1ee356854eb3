"""Every check: what is found, what is expected, the command that mends it."""

import functools
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from tfpipe.doctor.finding import Finding, Status
from tfpipe.placement import read_machine

# Importing TensorFlow takes seconds, on a busy machine or a network file system many.
_PROBE_S = 90.0
_ALLREDUCE_S = 180.0
_TOOL_S = 15.0
_GIB = 2**30
# Below, the small examples fail; a run of its own needs more, which nobody can know here.
_LEAST_MEMORY_BYTES, _LEAST_DISK_BYTES = 2 * _GIB, 5 * _GIB
# Not even the smallest run fits.
_NEEDED_DISK_BYTES = _GIB // 4
# A part is installed where its own distribution is.
_PARTS = {"train": "tensorflow", "horovod": "horovod", "convert": "tf2onnx", "serve": "fastapi"}
_INSTALL = "make setup, or: pip install 'tfpipe[{part}]' -c constraints/{pins}.txt"


@dataclass(frozen=True)
class Wanted:
    """What the doctor is asked to look at.

    Attributes:
        store: MLflow store; "": MLFLOW_TRACKING_URI, else sqlite:///mlflow.db.
        port: Of the service.
        folders: Where runs and bundles are written.
        parts: Installed parts of tfpipe.
    """

    store: str
    port: int
    folders: tuple[Path, ...]
    parts: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """What a probe gave: facts, or why it gave none."""

    facts: dict[str, Any]
    problem: str = ""


def installed_parts() -> tuple[str, ...]:
    """The parts of tfpipe whose own library is installed."""
    return tuple(part for part, name in _PARTS.items() if _version(name))


def examine(wanted: Wanted) -> list[Finding]:
    """Run every probe that the installed parts call for, and judge; nothing waits longer than its limit."""
    probes = _probes(wanted)
    with ThreadPoolExecutor(max_workers=2) as pool:
        answers = dict(zip(probes, pool.map(lambda probe: probe(), probes.values()), strict=True))
    return judge(wanted, answers)


def judge(wanted: Wanted, answers: Mapping[str, Answer]) -> list[Finding]:
    """What the answers mean; what no probe was asked for is left out."""
    checks: Sequence[Callable[[Wanted, Mapping[str, Answer]], Iterable[Finding]]] = (
        _python, _parts, _tensorflow, _horovod, _allreduce, _tools, _gpus, _onnxruntime, _tensorrt, _store, _port,
        _memory, _disk, _processor,
    )  # fmt: skip
    return [finding for check in checks for finding in check(wanted, answers)]


def _probes(wanted: Wanted) -> dict[str, Callable[[], Answer]]:
    parts = set(wanted.parts)
    asked = {
        "two workers": "horovod" in parts and "train" in parts,
        "tensorflow": "train" in parts,
        "horovod": "horovod" in parts and "train" in parts,
        "gpus": True,
        "onnxruntime": bool(parts & {"convert", "serve"}),
        "tensorrt": bool(parts),
        "store": bool(parts & {"train", "serve"}),
        "port": "serve" in parts,
    }
    arguments = {"store": wanted.store, "port": str(wanted.port)}
    probes: dict[str, Callable[[], Answer]] = {
        name: functools.partial(ask, name, arguments.get(name, "")) for name, yes in asked.items() if yes
    }
    if "two workers" in probes:
        probes["two workers"] = functools.partial(_run, _two_workers(), _ALLREDUCE_S)
    return probes


def _two_workers() -> list[str]:
    beside = Path(sys.executable).with_name("horovodrun")
    launcher = str(beside) if beside.exists() else "horovodrun"
    return [launcher, "-np", "2", sys.executable, "-m", "tfpipe.doctor.probes", "allreduce"]


def ask(probe: str, argument: str = "", *, timeout_s: float = _PROBE_S) -> Answer:
    """Run a probe in a process of its own.

    Returns:
        Its facts; or, in words, how it failed: its last line of error, the signal that ended it, or how long it took.
    """
    return _run([sys.executable, "-m", "tfpipe.doctor.probes", probe, argument], timeout_s)


def _run(command: Sequence[str], timeout_s: float) -> Answer:
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            errors="replace", start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        return Answer({}, f"{command[0]}: {error.strerror}")
    try:
        output, errors = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        # With all that it started: horovodrun has workers.
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return Answer({}, f"no answer within {timeout_s:g} s")
    if process.returncode < 0:
        return Answer({}, f"ended by {signal.Signals(-process.returncode).name}")
    if process.returncode > 0:
        lines = [line for line in errors.splitlines() if line.strip()]
        return Answer({}, lines[-1].strip() if lines else f"exit code {process.returncode}")
    return Answer(_facts(output))


def _facts(output: str) -> dict[str, Any]:
    """The last JSON object of an output; horovodrun puts the rank before each line."""
    found = [line[line.index("{") :] for line in output.splitlines() if line.rstrip().endswith("}") and "{" in line]
    return json.loads(found[-1]) if found else {}


def _python(_: Wanted, _answers: Mapping[str, Answer]) -> Iterable[Finding]:
    version = platform.python_version()
    good = (3, 11) <= sys.version_info[:2] <= (3, 12)
    yield Finding(
        "Python", "ok" if good else "failed", f"{version} ({sys.executable})", "3.11 or 3.12",
        "" if good else "uv venv --python 3.11 .venv && make setup",
    )  # fmt: skip


def _parts(wanted: Wanted, _answers: Mapping[str, Answer]) -> Iterable[Finding]:
    if not wanted.parts:
        yield Finding("parts", "failed", "none", "one of train, convert, serve", "make setup")
    for part in wanted.parts:
        missing = [name for name in _requirements(part) if not _version(name)]
        pins = "serve" if part == "serve" and "train" not in wanted.parts else "train"
        yield Finding(
            f"part {part}",
            "failed" if missing else "ok",
            f"missing: {', '.join(missing)}" if missing else f"{len(_requirements(part))} libraries",
            "all of its libraries",
            _INSTALL.format(part=part, pins=pins) if missing else "",
        )


def _tensorflow(_: Wanted, answers: Mapping[str, Answer]) -> Iterable[Finding]:
    answer = answers.get("tensorflow")
    if answer is None:
        return
    fix = _INSTALL.format(part="train", pins="train")
    if answer.problem:
        yield Finding("TensorFlow", "failed", answer.problem, "2.17 that can be imported", fix)
        return
    facts = answer.facts
    built = f"built for CUDA {facts['cuda']}" if facts["cuda"] else "built for CPUs"
    good = facts["version"].startswith("2.17.")
    yield Finding("TensorFlow", "ok" if good else "failed", f"{facts['version']}, {built}", "2.17", "" if good else fix)
    yield _keras(facts["keras"], facts["backend"], fix)
    seen, present = facts["gpus"], answers["gpus"].facts.get("gpus", [])
    if seen or not present:
        yield Finding("TensorFlow's GPUs", "ok", ", ".join(seen) or "none; training runs on the CPU")
    else:
        yield Finding(
            "TensorFlow's GPUs", "warning", f"none of {len(present)}", "the GPUs of this machine",
            "pip install 'tfpipe[train-gpu]' in an environment of its own, or NVIDIA's TensorFlow container",
        )  # fmt: skip


def _keras(found: str, backend: str | None, fix: str) -> Finding:
    expected = "3 on tensorflow"
    if backend is None or not found.startswith("3."):
        return Finding("Keras", "failed", found, expected, fix)
    if backend != "tensorflow":
        return Finding("Keras", "failed", f"{found} on {backend}", expected, "export KERAS_BACKEND=tensorflow")
    return Finding("Keras", "ok", f"{found} on {backend}")


def _horovod(wanted: Wanted, answers: Mapping[str, Answer]) -> Iterable[Finding]:
    if "train" not in wanted.parts:
        return
    if "horovod" not in wanted.parts:
        yield Finding(
            "Horovod", "warning", "not installed; one worker only", "0.28.1, for several workers", "make setup"
        )
        return
    answer = answers["horovod"]
    if answer.problem:
        fix = "pip uninstall -y horovod; make setup   # it is compiled against the TensorFlow that is here"
        yield Finding("Horovod", "failed", answer.problem, "0.28.1 that can be imported", fix)
        return
    facts = answer.facts
    kinds = [
        f"{name.upper() if name != 'gloo' else 'Gloo'}: {'yes' if facts[name] else 'no'}"
        for name in ("gloo", "mpi", "nccl")
    ]
    found = f"{facts['version']}; {', '.join(kinds)}"
    if not facts["gloo"] and not facts["mpi"]:
        yield Finding("Horovod", "failed", found, "Gloo or MPI", "HOROVOD_WITH_GLOO=1 make setup")
    elif not facts["nccl"] and len(answers["gpus"].facts.get("gpus", [])) > 1:
        fix = "HOROVOD_GPU_OPERATIONS=NCCL pip install --no-cache-dir --force-reinstall horovod==0.28.1"
        yield Finding("Horovod", "warning", found, "NCCL, for several GPUs", fix)
    else:
        yield Finding("Horovod", "ok", found)


def _allreduce(_: Wanted, answers: Mapping[str, Answer]) -> Iterable[Finding]:
    answer = answers.get("two workers")
    if answer is None:
        return
    good = answer.facts.get("sum") == 3.0 and answer.facts.get("size") == 2
    yield Finding(
        "two workers",
        "ok" if good else "failed",
        "an allreduce gave the same sum to both" if good else answer.problem or f"received {answer.facts}",
        "two workers that add 1 and 2 up to 3",
        "" if good else f"{' '.join(_two_workers())}   # shows what they say",
    )


def _tools(wanted: Wanted, _answers: Mapping[str, Answer]) -> Iterable[Finding]:
    if "train" not in wanted.parts:
        return
    for name, expected in (("g++", "a C++17 compiler"), ("make", "GNU make"), ("cmake", "CMake")):
        line = _output([name, "--version"]).partition("\n")[0].strip()
        yield Finding(
            name, "ok" if line else "warning", line or "missing", f"{expected}, to compile Horovod",
            "" if line else f"sudo apt-get install {name}",
        )  # fmt: skip


def _gpus(_: Wanted, answers: Mapping[str, Answer]) -> Iterable[Finding]:
    answer = answers["gpus"]
    compiler = re.search(r"release [\d.]+", _output(["nvcc", "--version"]))
    yield Finding("CUDA", "ok", f"nvcc {compiler[0]}" if compiler else "no nvcc; needed only to compile for GPUs")
    if answer.facts.get("gpus"):
        yield Finding("GPUs", "ok", f"{'; '.join(answer.facts['gpus'])}; driver {answer.facts['driver']}")
    elif _output(["nvidia-smi", "-L"]).startswith("GPU"):
        found = answer.problem or answer.facts.get("reason", "")
        yield Finding("GPUs", "warning", f"NVML: {found}", "the GPUs that nvidia-smi lists", "pip install nvidia-ml-py")
    else:
        yield Finding("GPUs", "ok", "none")


def _onnxruntime(_: Wanted, answers: Mapping[str, Answer]) -> Iterable[Finding]:
    answer, fix = answers.get("onnxruntime"), _INSTALL.format(part="serve", pins="serve")
    if answer is None:
        return
    if answer.problem:
        yield Finding("ONNX Runtime", "failed", answer.problem, "1.23 or newer that can be imported", fix)
        return
    providers = [name.removesuffix("ExecutionProvider") for name in answer.facts["providers"]]
    found = f"{answer.facts['version']}; providers: {', '.join(providers)}"
    if "CPU" not in providers:
        yield Finding("ONNX Runtime", "failed", found, "the CPU provider", fix)
    elif "CUDA" not in providers and answers["gpus"].facts.get("gpus"):
        fix = "pip install 'tfpipe[serve-gpu]' in an environment of its own"
        yield Finding("ONNX Runtime", "warning", found, "the CUDA provider, for the GPUs of this machine", fix)
    else:
        yield Finding("ONNX Runtime", "ok", found)


def _tensorrt(_: Wanted, answers: Mapping[str, Answer]) -> Iterable[Finding]:
    answer = answers.get("tensorrt")
    if answer is None:
        return
    if answer.problem:
        yield Finding("TensorRT", "warning", answer.problem, "whole, or not there", "pip uninstall tensorrt")
        return
    found = f"package {answer.facts['package'] or 'missing'}"
    if "tensorflow" in answers:
        found += f"; in TensorFlow: {'yes' if answers['tensorflow'].facts.get('tensorrt') else 'no'}"
    yield Finding("TensorRT", "ok", f"{found}; only GPUs need it")


def _store(wanted: Wanted, answers: Mapping[str, Answer]) -> Iterable[Finding]:
    answer = answers.get("store")
    if answer is None:
        return
    facts = answer.facts
    where, expected = facts.get("uri", wanted.store or "the default"), "a store that answers and can be written"
    if problem := answer.problem or facts.get("problem"):
        fix = "mlflow server --port 5000, or name another one: export MLFLOW_TRACKING_URI=sqlite:///mlflow.db"
        yield Finding("MLflow store", "failed", f"{where}: {problem}", expected, fix)
    elif not facts["exists"]:
        good = facts["writable"]
        found = f"{where}: none yet; the first run makes it" if good else f"{where}: its folder cannot be written"
        yield Finding("MLflow store", "ok" if good else "failed", found, expected, "" if good else "chmod u+w on it")
    elif facts.get("schema") != facts.get("newest_schema"):
        found = f"{where}: schema {facts['schema']}"
        expected = f"schema {facts['newest_schema']} of the MLflow that is installed"
        yield Finding("MLflow store", "failed", found, expected, f"mlflow db upgrade {where}")
    else:
        written = {True: "can be written", None: "answers; whether it can be written was not tried"}[facts["writable"]]
        yield Finding("MLflow store", "ok", f"{where}: {written}")


def _port(wanted: Wanted, answers: Mapping[str, Answer]) -> Iterable[Finding]:
    answer = answers.get("port")
    if answer is None:
        return
    free = answer.facts.get("free", False)
    found = "free" if free else answer.problem or answer.facts["reason"]
    fix = "" if free else f"ss -ltnp 'sport = :{wanted.port}', or: export TFPIPE_SERVING_PORT={wanted.port + 1}"
    yield Finding(f"port {wanted.port}", "ok" if free else "warning", found, "free, for the service", fix)


def _memory(_: Wanted, _answers: Mapping[str, Answer]) -> Iterable[Finding]:
    kib = re.search(r"MemAvailable:\s+(\d+)", _text(Path("/proc/meminfo")))
    if kib:
        available = int(kib[1]) * 1024
        good = available >= _LEAST_MEMORY_BYTES
        found = f"{available / _GIB:.1f} GiB available"
        fix = "" if good else "ps aux --sort=-rss | head   # what holds it"
        yield Finding("memory", "ok" if good else "warning", found, f"{_LEAST_MEMORY_BYTES / _GIB:g} GiB", fix)


def _disk(wanted: Wanted, _answers: Mapping[str, Answer]) -> Iterable[Finding]:
    for folder in wanted.folders:
        there = _existing(folder)
        free = shutil.disk_usage(there).free
        found, expected = (
            f"{free / _GIB:.1f} GiB free",
            f"{_LEAST_DISK_BYTES / _GIB:g} GiB in a folder that can be written",
        )
        if not os.access(there, os.W_OK):
            yield Finding(f"folder {folder}", "failed", f"{there} cannot be written", expected, f"chmod u+w {there}")
        elif free < _LEAST_DISK_BYTES:
            status: Status = "warning" if free >= _NEEDED_DISK_BYTES else "failed"
            yield Finding(f"folder {folder}", status, found, expected, f"du -xh {there} | sort -h | tail")
        else:
            yield Finding(f"folder {folder}", "ok", found)


def _processor(_: Wanted, _answers: Mapping[str, Answer]) -> Iterable[Finding]:
    machine = read_machine(os.sched_getaffinity(0))
    flags = set(_text(Path("/proc/cpuinfo")).split())
    features = {"AVX2": "avx2", "AVX-512": "avx512f", "AVX-512 BF16": "avx512_bf16", "AMX": "amx_tile"}
    quota = f", quota {machine.quota:g}" if machine.quota is not None else ""
    listed = ", ".join(f"{name}: {'yes' if flag in flags else 'no'}" for name, flag in features.items())
    yield Finding("processor", "ok", f"{len(machine.cores)} cores, {len(machine.processors)} threads{quota}; {listed}")


def _requirements(part: str) -> list[str]:
    """Names of the libraries of a part, as the installed tfpipe declares them; none where it is not installed."""
    try:
        declared = metadata.requires("tfpipe") or []
    except metadata.PackageNotFoundError:
        return []
    extra = re.compile(rf"extra == ['\"]{part}['\"]")
    return [re.split(r"[^\w.-]", line, maxsplit=1)[0] for line in declared if extra.search(line) or ";" not in line]


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _output(command: Sequence[str]) -> str:
    """Standard output of a tool; empty where it is missing, fails or hangs."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TOOL_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


def _existing(folder: Path) -> Path:
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
