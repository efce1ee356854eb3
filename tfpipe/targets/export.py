"""A bundle, written for another server: whole or not at all."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tfpipe
from tfpipe.core import atomic
from tfpipe.core.bundle import MANIFEST, Bundle, open_bundle
from tfpipe.core.errors import BundleError, ConfigError
from tfpipe.scoring import CACHE_DIR
from tfpipe.targets.job import Job

TARGETS = ("tfserving", "triton", "mlflow", "onnx")
TRITON_BACKENDS = ("python", "onnxruntime")
DEVICES = ("cpu", "gpu")
# Says what was exported, and that a folder may be replaced.
CARD = "export.json"
_SCHEME = "models:/"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class ExportOptions:
    """What may be chosen.

    Attributes:
        precision: Variant to export, or "auto" for the bundle's default; TensorFlow Serving has only Keras's float32.
        triton_backend: "python" takes raw files or texts, "onnxruntime" preprocessed rows.
        device: "cpu" or "gpu": what Triton runs it on.
        name: Under which the server knows the model; None: the bundle's.
    """

    precision: str = "auto"
    triton_backend: str = "python"
    device: str = "cpu"
    name: str | None = None


@dataclass(frozen=True)
class ExportResult:
    """What an export gave.

    Attributes:
        folder: Where it lies; its README.md says how it is served.
        target: Of `TARGETS`.
        bundle: What was exported.
    """

    folder: Path
    target: str
    bundle: Bundle


def export(
    model: str | Path,
    target: str,
    output: str | Path,
    *,
    options: ExportOptions | None = None,
    overwrite: bool = False,
    tracking_uri: str | None = None,
    cache_dir: Path = CACHE_DIR,
) -> ExportResult:
    """Write a bundle for another server. No TensorFlow.

    Example:
        export("bundles/digits-1", "triton", "model_repository")

    Args:
        model: A bundle's folder, or models:/NAME/VERSION, models:/NAME@ALIAS, models:/NAME.
        target: "tfserving", "triton", "mlflow" or "onnx".
        output: Folder to make; appears whole or not at all.
        options: What may be chosen; None: the defaults.
        overwrite: Replace what an earlier export wrote there.
        tracking_uri: Of the registry; None: MLFLOW_TRACKING_URI, then sqlite:///mlflow.db.
        cache_dir: Where downloads are kept.

    Raises:
        ConfigError: An unknown target or option, or `output` holds other files.
        BundleError: No bundle, one that is incomplete or changed, or one that the target cannot serve.
        RegistryError: Unknown model, version or alias.
        GateError: What was written answers the golden samples otherwise than Keras.
    """
    chosen = options or ExportOptions()
    _check_choice("--target", target, TARGETS)
    _check_choice("--triton-backend", chosen.triton_backend, TRITON_BACKENDS)
    _check_choice("--device", chosen.device, DEVICES)
    folder = Path(output).resolve()
    _check_output(folder, overwrite=overwrite)
    job = _job(*_open(model, tracking_uri, cache_dir.expanduser()), chosen)
    with atomic.staged_folder(folder, replace=True) as staging:
        _writer(target)(job, staging)
        (staging / CARD).write_text(_card(job, target), encoding="utf-8")
    return ExportResult(folder, target, job.bundle)


def _writer(target: str) -> Callable[[Job, Path], None]:
    # Imported by target: each needs a library that the others do not.
    if target == "tfserving":
        from tfpipe.targets.tfserving import write_tfserving

        return write_tfserving
    if target == "triton":
        from tfpipe.targets.triton import write_triton

        return write_triton
    if target == "mlflow":
        from tfpipe.targets.mlflow_model import write_mlflow

        return write_mlflow
    from tfpipe.targets.onnx_files import write_onnx

    return write_onnx


def _check_choice(where: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ConfigError(f"{where}: expected {', '.join(known)}; received {value!r}.")


def _check_output(folder: Path, *, overwrite: bool) -> None:
    if folder.exists():
        if not folder.is_dir():
            raise ConfigError(f"--output: expected a folder, but {str(folder)!r} is a file.")
        if any(folder.iterdir()) and not (folder / CARD).is_file():
            raise ConfigError(f"--output: expected a new folder, but {str(folder)!r} holds files that no export wrote.")
        if (folder / CARD).is_file() and not overwrite:
            raise ConfigError(
                f"--output: {str(folder)!r} holds an earlier export. Choose another folder, or give --overwrite."
            )
    atomic.writable_folder(folder.parent, where="--output")


def _job(bundle: Bundle, name: str, version: str | None, chosen: ExportOptions) -> Job:
    name, version = chosen.name or name, version or "1"
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"--name: expected 1 to 128 letters, digits, '.', '_' or '-', received {name!r}. Give another with --name."
        )
    return Job(bundle, name, version, bundle.variant(chosen.precision), chosen.triton_backend, chosen.device)


def _open(model: str | Path, tracking_uri: str | None, cache_dir: Path) -> tuple[Bundle, str, str | None]:
    """The bundle with its name and version: the registry's, where it came from there."""
    if str(model).startswith(_SCHEME):
        # Only here: a folder is exported without asking MLflow, which takes seconds to import.
        from tfpipe.registry import Registry

        registry = Registry(tracking_uri)
        found = registry.resolve(str(model))
        bundle = open_bundle(registry.download_bundle(found, cache_dir))
        return bundle, found.name, found.version
    folder = Path(model)
    if not (folder / MANIFEST).is_file():
        raise BundleError(
            f"{folder}: expected a bundle (a folder with {MANIFEST}) or {_SCHEME}NAME/VERSION, found no bundle. "
            f"Make one with `python -m tfpipe.convert --model MODEL --output {folder}`."
        )
    bundle = open_bundle(folder)
    return bundle, bundle.manifest.model_name, bundle.manifest.model_version


def _card(job: Job, target: str) -> str:
    card: dict[str, Any] = {
        "target": target,
        "model_name": job.name,
        "model_version": job.version,
        "precision": "fp32" if target == "tfserving" else job.variant.precision,
        "bundle": job.bundle.sha256,
        "tfpipe": tfpipe.__version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return json.dumps(card, indent=2) + "\n"
