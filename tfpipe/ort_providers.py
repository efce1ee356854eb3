"""ONNX Runtime's execution providers: which there are here, and the options that each is opened with.

A `Way` is a provider with its arithmetic. What one file gains from a way differs by processor and model by factors, so
that ways are measured (`tfpipe tune`), never assumed.
"""

import contextlib
import importlib
import io
import json
import threading
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnxruntime

from tfpipe.core.errors import ConfigError
from tfpipe.provenance import cpu_features, processor

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
# What a provider can compute float32 operators in.
ARITHMETIC = {
    "cpu": ("float32",),
    "openvino": ("float32", "bfloat16"),
    "cuda": ("float32",),
    "tensorrt": ("float32", "float16"),
}
# Flags of /proc/cpuinfo. Without one of them bfloat16 is emulated: slower than float32, and less exact.
_BFLOAT16_FLAGS = frozenset({"amx_bf16", "avx512_bf16"})
_HINTS = {"float32": "f32", "bfloat16": "bf16"}
# A GPU runs first what the preferred provider takes, then what CUDA does; the CPU has the shapes.
_BEHIND = {"tensorrt": ("cuda", "cpu"), "cuda": ("cpu",)}
_registration = threading.Lock()


@dataclass(frozen=True)
class Way:
    """A way to run a graph.

    Attributes:
        provider: "cpu", "openvino", "cuda" or "tensorrt".
        arithmetic: "float32", "bfloat16" or "float16": what the provider computes float32 operators in.
    """

    provider: str = "cpu"
    arithmetic: str = "float32"

    @property
    def title(self) -> str:
        """As reports name it, e.g. "openvino (bfloat16)"."""
        return self.provider if self.arithmetic == "float32" else f"{self.provider} ({self.arithmetic})"


def ways(
    precision: str, *, features: Collection[str] | None = None, installed: Collection[str] | None = None
) -> tuple[Way, ...]:
    """The ways to run a variant on this machine, the plainest first.

    A provider that is installed may still fail to open a graph, or take none of its operators: `open_session` says so.

    Args:
        precision: "fp32", "fp16" or "int8".
        features: Flags of the processor; None: this one's.
        installed: Providers; None: those of this ONNX Runtime.
    """
    has_bfloat16 = bool(_BFLOAT16_FLAGS.intersection(cpu_features() if features is None else features))
    offered = installed_providers() if installed is None else installed
    every = [Way(provider, arithmetic) for provider in PROVIDERS for arithmetic in ARITHMETIC[provider]]
    return tuple(way for way in every if way.provider in offered and _fits(precision, way, has_bfloat16=has_bfloat16))


def _fits(precision: str, way: Way, *, has_bfloat16: bool) -> bool:
    if way.arithmetic == "bfloat16":
        # A variant in float16 gains nothing from another half arithmetic on top.
        return has_bfloat16 and precision != "fp16"
    # TensorRT takes tensors in float16 only where it may compute in it.
    return (precision, way) != ("fp16", Way("tensorrt"))


def installed_providers() -> tuple[str, ...]:
    """Providers that this ONNX Runtime offers, by our names; registers OpenVINO's plugin where it is installed."""
    _openvino_devices()
    available = onnxruntime.get_available_providers()
    return tuple(name for name, full in PROVIDERS.items() if full in available)


def check(way: Way) -> None:
    """Refuse a way that is unknown or not there.

    Raises:
        ConfigError: The sentence says what is missing, and how to get it.
    """
    if way.provider not in PROVIDERS:
        raise ConfigError(f"provider: expected one of auto, {', '.join(PROVIDERS)}; received {way.provider!r}.")
    if way.arithmetic not in ARITHMETIC[way.provider]:
        raise ConfigError(
            f"arithmetic: expected {' or '.join(ARITHMETIC[way.provider])} of provider {way.provider!r}, received "
            f"{way.arithmetic!r}."
        )
    installed = installed_providers()
    if way.provider not in installed:
        raise ConfigError(
            f"provider: expected one of {', '.join(installed)}; received {way.provider!r}, which is not installed "
            f"here. {_remedy(way.provider)}"
        )


def configure(
    options: onnxruntime.SessionOptions,
    way: Way,
    *,
    threads: int | None,
    engines_dir: Path | None,
    is_quantised: bool = False,
) -> Any:
    """Set the options of a session for a way.

    Args:
        options: Changed in place.
        way: One that `check` lets pass.
        threads: Threads inside an operator; None leaves the provider's choice.
        engines_dir: Where TensorRT keeps the engines that it builds; None: nowhere.
        is_quantised: Whether the graph quantises, which TensorRT must be told.

    Returns:
        What `InferenceSession` takes as `providers`: None where the options say it all.
    """
    if way.provider == "cpu":
        return [PROVIDERS["cpu"]]
    # Without it nobody knows which operators a provider left to the CPU.
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if way.provider == "openvino":
        # As `providers`, or with other options than load_config, it is left out without a word, or falls back.
        options.add_provider_for_devices(_openvino_devices(), {"load_config": json.dumps(_openvino(way, threads))})
        return None
    preload(way.provider)
    own = _tensorrt(way, engines_dir, is_quantised=is_quantised) if way.provider == "tensorrt" else _CUDA
    behind = [(PROVIDERS[name], _CUDA if name == "cuda" else {}) for name in _BEHIND[way.provider]]
    return [(PROVIDERS[way.provider], own), *behind]


def preload(provider: str) -> None:
    """Load the libraries of NVIDIA's Python packages, which lie where no loader looks; nothing where there are none.

    Args:
        provider: "cuda" or "tensorrt".
    """
    # It prints what it does not find; a provider that then cannot be loaded is told by `left_to_cpu`.
    with contextlib.redirect_stdout(io.StringIO()):
        onnxruntime.preload_dlls()
    if provider == "tensorrt":
        with contextlib.suppress(ImportError):
            importlib.import_module("tensorrt_libs")


def left_to_cpu(session: onnxruntime.InferenceSession, way: Way) -> tuple[str, ...]:
    """Operators that a provider lacks, so that the CPU's runs them in its place; sorted.

    Args:
        session: Opened with what `configure` gave.
        way: The one that it was opened for.

    Raises:
        ConfigError: The provider runs nothing.
    """
    wanted = PROVIDERS[way.provider]
    if session.get_providers()[0] != wanted:
        raise ConfigError(
            f"provider: expected {way.provider!r} to run, but ONNX Runtime fell back to {session.get_providers()}."
        )
    if way.provider == "cpu":
        return ()
    parts = session.get_provider_graph_assignment_info()
    lacking = {node.op_type for part in parts if part.ep_name == PROVIDERS["cpu"] for node in part.get_nodes()}
    if all(part.ep_name != wanted for part in parts):
        raise ConfigError(
            f"provider: expected {way.provider!r} to run the model, but it takes none of its operators "
            f"({', '.join(sorted(lacking))}). Choose cpu."
        )
    return tuple(sorted(lacking))


# TensorFloat-32 keeps 11 bits: that is no float32, which is what this way is called.
_CUDA = {"use_tf32": "0"}


def _openvino(way: Way, threads: int | None) -> dict[str, Any]:
    values: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": _HINTS[way.arithmetic],
        # Sessions that pin themselves choose the same core.
        "ENABLE_CPU_PINNING": "NO",
    }
    if threads is not None:
        values["INFERENCE_NUM_THREADS"] = threads
    return {"CPU": values}


def _tensorrt(way: Way, engines_dir: Path | None, *, is_quantised: bool) -> dict[str, str]:
    values = {
        "trt_fp16_enable": str(int(way.arithmetic == "float16")),
        # Of a graph that does not quantise it would want a table of ranges.
        "trt_int8_enable": str(int(is_quantised)),
    }
    if engines_dir is not None:
        engines_dir.mkdir(parents=True, exist_ok=True)
        # An engine takes minutes to build; the cache is keyed by graph, GPU and TensorRT version.
        values |= {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(engines_dir),
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(engines_dir),
        }
    return values


def _openvino_devices() -> list[Any]:
    """The processors that OpenVINO's plugin takes; empty where it is not installed, or takes none."""
    with _registration:
        devices = _devices()
        if devices:
            return devices
        try:
            import onnxruntime_ep_openvino
        except ModuleNotFoundError:
            return []
        try:
            onnxruntime.register_execution_provider_library("openvino", onnxruntime_ep_openvino.get_library_path())
        # ONNX Runtime raises classes of its own, straight from Exception.
        except Exception as error:
            if "already registered" not in str(error):
                raise ConfigError(
                    f"provider: expected the OpenVINO plugin to load into ONNX Runtime {onnxruntime.__version__}; "
                    f"{error}. Install both anew: pip install 'tfpipe[openvino]'."
                ) from error
        return _devices()


def _devices() -> list[Any]:
    return [
        device
        for device in onnxruntime.get_ep_devices()
        if device.ep_name == PROVIDERS["openvino"] and device.device.type == onnxruntime.OrtHardwareDeviceType.CPU
    ]


def _remedy(provider: str) -> str:
    if provider != "openvino":
        return "It comes with pip install 'tfpipe[serve-gpu]', in an environment of its own."
    try:
        import onnxruntime_ep_openvino  # noqa: F401  # whether it is there
    except ModuleNotFoundError:
        return "Install it: pip install 'tfpipe[openvino]'."
    return (
        f"Its plugin is, but takes no processor of this machine ({processor()}): up to version 1.8 it takes Intel's "
        "alone. Choose cpu."
    )
