"""What `tfpipe tune` chose for a bundle on a machine: a file in the service's cache folder, never in the bundle."""

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from tfpipe.core import atomic
from tfpipe.core.bundle import Bundle, Execution
from tfpipe.provenance import gpus, processor

CACHE_VARIABLE = "TFPIPE_SERVING_CACHE_DIR"
DEFAULT_CACHE_DIR = Path("~/.cache/tfpipe")
FORMAT_VERSION = 1
# Another version of one of these may be faster in another way.
_LIBRARIES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-ep-openvino", "tensorrt")


@dataclass(frozen=True)
class Machine:
    """What a choice holds for.

    Attributes:
        processor: Its name.
        cores: Those that the process may use.
        gpus: Names of NVIDIA's, in order.
        libraries: Version by name of what runs models.
    """

    processor: str
    cores: int
    gpus: tuple[str, ...]
    libraries: dict[str, str]

    @property
    def digest(self) -> str:
        """12 hex digits that another machine does not have."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Choice:
    """What was measured.

    Attributes:
        bundle_sha256: Of the bundle's manifest.
        machine: Where.
        threads: Threads inside one run; None: one a core.
        batch_size: Rows of the batch whose latency decided.
        executions: Best first; what has `missed` may not run, and why.
        created: ISO 8601, UTC.
    """

    bundle_sha256: str
    machine: Machine
    threads: int | None
    batch_size: int
    executions: tuple[Execution, ...]
    created: str
    format_version: int = FORMAT_VERSION

    @property
    def passed(self) -> tuple[Execution, ...]:
        """What may run, best first."""
        return tuple(execution for execution in self.executions if execution.passed)


def this_machine() -> Machine:
    """The machine of this process."""
    # A container may be given fewer than the machine has; only Linux can tell.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Machine(processor(), cores, gpus(), _versions())


def path_of(cache_dir: Path, bundle: Bundle, machine: Machine) -> Path:
    """Where the choice for a bundle on a machine is kept; machines of many kinds may share a cache folder."""
    return cache_dir.expanduser() / "tuned" / f"{bundle.sha256}.{machine.digest}.json"


def engines_dir(cache_dir: Path) -> Path:
    """Where TensorRT keeps the engines that it builds."""
    return cache_dir.expanduser() / "engines"


def write_choice(cache_dir: Path, bundle: Bundle, choice: Choice) -> Path:
    """Keep a choice, whole or not at all; an earlier one of the same machine is replaced.

    Raises:
        OSError: The disk is full or the folder not writable.
    """
    path = path_of(cache_dir, bundle, choice.machine)
    atomic.write_file(path, json.dumps(asdict(choice), indent=2, ensure_ascii=False) + "\n")
    return path


def find_choice(cache_dir: Path, bundle: Bundle, machine: Machine) -> tuple[Choice | None, str]:
    """The choice for a bundle on a machine.

    Nobody is refused service for a file in a cache: one that cannot be read counts as none.

    Returns:
        It and "", or None and why there is none.
    """
    path = path_of(cache_dir, bundle, machine)
    if not path.is_file():
        others = any(path.parent.glob(f"{bundle.sha256}.*.json")) if path.parent.is_dir() else False
        return None, "tuned on another machine or with other libraries" if others else "not tuned on this machine"
    try:
        choice = _choice(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None, "what was tuned cannot be read; tune again"
    if choice.format_version != FORMAT_VERSION or choice.bundle_sha256 != bundle.sha256 or choice.machine != machine:
        return None, "what was tuned is not of this bundle on this machine; tune again"
    return choice, ""


def _choice(values: dict[str, Any]) -> Choice:
    machine = values.pop("machine")
    return Choice(
        machine=Machine(**{**machine, "gpus": tuple(machine["gpus"])}),
        executions=tuple(
            Execution(**{**entry, "missed": tuple(entry["missed"])}) for entry in values.pop("executions")
        ),
        **values,
    )


def _versions() -> dict[str, str]:
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
