"""Where a model comes from: the commit and the libraries it was made with."""

import platform
import subprocess
from importlib import metadata
from pathlib import Path

_LIBRARIES = (
    "tensorflow", "keras", "horovod", "numpy", "mlflow", "mlflow-skinny", "pillow", "simplejpeg", "onnx", "onnxruntime",
    "onnxruntime-gpu", "onnxruntime-ep-openvino", "tf2onnx",
)  # fmt: skip
_GIT_TIMEOUT_S = 10.0


def git_commit() -> str:
    """The commit of the current folder, with `-dirty` where files differ from it; empty outside a repository."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True, text=True, timeout=_GIT_TIMEOUT_S, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return described.stdout.strip() if described.returncode == 0 else ""


def library_versions() -> dict[str, str]:
    """Version by name of Python, tfpipe and the libraries that shape a model; those not installed are left out."""
    versions = {"python": platform.python_version()}
    for name in ("tfpipe", *_LIBRARIES):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def processor() -> str:
    """The processor's name, for figures that depend on it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cpu_features(cpuinfo: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """What the processor can do, by Linux's names, e.g. "avx512_vnni"; empty where nothing says it."""
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    flags = next((line.partition(":")[2] for line in lines if line.startswith(("flags", "Features"))), "")
    return frozenset(flags.split())


def gpus(drivers: Path = Path("/proc/driver/nvidia/gpus")) -> tuple[str, ...]:
    """Names of NVIDIA's GPUs, in order; empty where its driver is not loaded."""
    names = []
    for path in sorted(drivers.glob("*/information")):
        lines = path.read_text(encoding="utf-8").splitlines()
        names += [line.partition(":")[2].strip() for line in lines if line.startswith("Model:")]
    return tuple(names)
