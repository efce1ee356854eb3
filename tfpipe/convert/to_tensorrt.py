"""TensorRT: by TensorFlow's own converter, or by ONNX Runtime's provider; where it cannot be used, what is missing.

--backend tftrt     saved_model/N/ -> TF-TRT -> tensorrt/N/ of the bundle, for a TensorFlow Serving with TensorRT
--backend tensorrt  model.*.onnx -> an engine in the service's cache folder, and an execution in the manifest
"""

import contextlib
import ctypes
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime
import tensorflow as tf
from tensorflow.compiler.tf2tensorrt import _pywrap_py_utils

from tfpipe.core.errors import ConfigError, ConversionError
from tfpipe.core.signature import Array
from tfpipe.ort_providers import PROVIDERS, preload
from tfpipe.provenance import gpus

BACKENDS = ("onnx", "tftrt", "tensorrt")
FOLDER = "tensorrt"
_SIGNATURE = "tensor"
# What ONNX Runtime's provider of the versions that we take loads.
_LIBRARY = "libnvinfer.so.10"


@dataclass(frozen=True)
class Surroundings:
    """What there is to build engines with.

    Attributes:
        gpus: Names, or device names where the driver gives none.
        tensorflow: Its version.
        is_cuda_build: Whether this TensorFlow was built with CUDA.
        linked: Version of TensorRT that it was built against; None: without.
        loaded: Version of TensorRT that it can load; None: none.
        onnxruntime: Its version.
        providers: ONNX Runtime's, by its own names.
        has_library: Whether the TensorRT that ONNX Runtime wants can be loaded.
    """

    gpus: tuple[str, ...]
    tensorflow: str
    is_cuda_build: bool
    linked: tuple[int, ...] | None
    loaded: tuple[int, ...] | None
    onnxruntime: str
    providers: tuple[str, ...]
    has_library: bool


def look_around() -> Surroundings:
    """What there is on this machine. That a Python module can be imported proves nothing, so none is asked."""
    build = tf.sysconfig.get_build_info()
    linked = tuple(_pywrap_py_utils.get_linked_tensorrt_version()) if build.get("is_tensorrt_build") else None
    # Asked before the version: that aborts the process where TensorRT cannot be loaded.
    is_loadable = _pywrap_py_utils.is_tensorrt_enabled()
    return Surroundings(
        gpus=gpus() or tuple(device.name for device in tf.config.list_physical_devices("GPU")),
        tensorflow=tf.__version__,
        is_cuda_build=tf.test.is_built_with_cuda(),
        linked=linked,
        loaded=tuple(_pywrap_py_utils.get_loaded_tensorrt_version()) if is_loadable else None,
        onnxruntime=onnxruntime.__version__,
        providers=tuple(onnxruntime.get_available_providers()),
        has_library=_can_load(_LIBRARY),
    )


def missing(backend: str, there: Surroundings) -> list[str]:
    """What a backend lacks, a sentence each; empty where it can be used.

    Args:
        backend: One of `BACKENDS`.
        there: What there is.
    """
    if backend == "onnx":
        return []
    lacks = [] if there.gpus else ["A GPU: no NVIDIA GPU is seen."]
    return [*lacks, *(_lacks_of_tftrt(there) if backend == "tftrt" else _lacks_of_provider(there))]


def require(
    backend: str, *, allow_fallback: bool, look: Callable[[], Surroundings] = look_around
) -> dict[str, Any] | None:
    """Refuse a backend that cannot be used, unless ONNX Runtime alone will do.

    Args:
        backend: One of `BACKENDS`.
        allow_fallback: Whether to go on without it.
        look: What there is.

    Returns:
        None: it can be used. Else what is recorded of the fallback: {"backend": ..., "missing": [...]}.

    Raises:
        ConfigError: An unknown backend; or something is missing, and there is to be no fallback.
    """
    if backend not in BACKENDS:
        raise ConfigError(f"--backend: expected {', '.join(BACKENDS)}, received {backend!r}.")
    lacks = missing(backend, look()) if backend != "onnx" else []
    if not lacks:
        if backend == "tensorrt":
            share_gpus()
        return None
    if not allow_fallback:
        raise ConfigError(
            f"--backend {backend}: expected what it needs, but it lacks: {' '.join(lacks)} Without them convert with "
            "--backend onnx, or add --allow-fallback, which goes on with ONNX Runtime and records it."
        )
    return {"backend": backend, "missing": lacks}


def share_gpus() -> None:
    """Have TensorFlow leave memory of the GPUs to ONNX Runtime: by default it takes all of it at once."""
    for device in tf.config.list_physical_devices("GPU"):
        # A program that used the GPU before has settled it.
        with contextlib.suppress(RuntimeError):
            tf.config.experimental.set_memory_growth(device, True)


def convert_saved_model(
    source: Path, target: Path, *, precision: str, batches: Sequence[Array], calibration: Sequence[Array]
) -> None:
    """Convert a SavedModel's signature `tensor` with TF-TRT, and build its engines.

    Shapes are dynamic: one profile covers the range that the batches span.

    Args:
        source: The SavedModel.
        target: Folder to write.
        precision: "fp32", "fp16" or "int8".
        batches: Inputs of the signature, from the smallest to the largest that will be asked.
        calibration: Inputs that set the ranges of INT8, all of one shape.

    Raises:
        ConversionError: TF-TRT failed.
    """
    from tensorflow.python.compiler.tensorrt import trt_convert

    def inputs() -> Iterator[Mapping[str, Any]]:
        yield from ({"input": tf.constant(batch)} for batch in batches)

    def samples() -> Iterator[Mapping[str, Any]]:
        yield from ({"input": tf.constant(batch)} for batch in calibration)

    try:
        converter = trt_convert.TrtGraphConverterV2(
            input_saved_model_dir=str(source),
            input_saved_model_signature_key=_SIGNATURE,
            precision_mode=precision.upper(),
            use_calibration=precision == "int8",
            use_dynamic_shape=True,
            dynamic_shape_profile_strategy=trt_convert.PROFILE_STRATEGY_RANGE,
            maximum_cached_engines=len(batches),
        )
        converter.convert(calibration_input_fn=samples if precision == "int8" else None)
        converter.build(input_fn=inputs)
        converter.save(str(target))
    except (RuntimeError, ValueError, tf.errors.OpError) as error:
        raise ConversionError(f"--backend tftrt: expected TF-TRT to convert the SavedModel; {error}") from error


def batches_of(rows: Sequence[Array], batch: Callable[[Sequence[Array]], Array], size: int) -> list[Array]:
    """The inputs that a profile is to span: the shortest row alone, and a batch of the longest.

    Args:
        rows: Of the model's input.
        batch: Rows as the model's input.
        size: Rows of the largest batch.
    """
    ordered = sorted(rows, key=len)
    return [batch(ordered[:1]), batch([ordered[-1 - i % len(ordered)] for i in range(size)])]


def calibration_batches(rows: Sequence[Array], batch: Callable[[Sequence[Array]], Array], size: int) -> list[Array]:
    """Rows in batches of one shape; what is left over is filled up from the first rows.

    Args:
        rows: That set the ranges of INT8.
        batch: Rows as the model's input.
        size: Rows of a batch.
    """
    longest = max(map(len, rows))
    groups = [[rows[(start + i) % len(rows)] for i in range(size)] for start in range(0, len(rows), size)]
    inputs = [batch(group) for group in groups]
    if all(one.shape == inputs[0].shape for one in inputs):
        return inputs
    # Texts: as long as the longest, by a row of that length that is cut off again.
    filler = next(row for row in rows if len(row) == longest)
    return [batch([*group, filler])[:-1] for group in groups]


def _lacks_of_tftrt(there: Surroundings) -> Iterator[str]:
    if not there.is_cuda_build:
        yield f"CUDA in TensorFlow: {there.tensorflow} was built without."
    if there.linked is None:
        yield f"TF-TRT in TensorFlow: {there.tensorflow} was built without; 2.17 is the last that has it."
        return
    linked = _dotted(there.linked)
    if there.loaded is None:
        yield (
            f"TensorRT {there.linked[0]}: TensorFlow {there.tensorflow} was built against {linked} and cannot load it. "
            "The package index has only 10 and newer; NVIDIA's TensorFlow containers have it."
        )
    elif there.loaded[0] != there.linked[0] or there.loaded < there.linked:
        yield (
            f"TensorRT {there.linked[0]}, from {linked} on, which TensorFlow {there.tensorflow} was built against: it "
            f"loads {_dotted(there.loaded)}."
        )


def _lacks_of_provider(there: Surroundings) -> Iterator[str]:
    if PROVIDERS["tensorrt"] not in there.providers:
        offered = ", ".join(name.removesuffix("ExecutionProvider") for name in there.providers)
        yield (
            f"ONNX Runtime's TensorRT provider: onnxruntime {there.onnxruntime} offers {offered}. Install "
            "onnxruntime-gpu in its place, in an environment of its own."
        )
    if not there.has_library:
        yield f"TensorRT 10: {_LIBRARY} cannot be loaded. Install it (pip install tensorrt) where the loader looks."


def _can_load(library: str) -> bool:
    preload("tensorrt")
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))
