"""The one way we run ONNX: verification and the service open their sessions here, so that they agree."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import onnxruntime

from tfpipe import ort_providers
from tfpipe.core.errors import BundleError, InferenceError
from tfpipe.core.signature import Array
from tfpipe.ort_providers import PROVIDERS, Way

# What ONNX Runtime and the CUDA allocator say where memory runs out; they have no error class for it.
_OUT_OF_MEMORY = ("Failed to allocate memory", "bad allocation", "std::bad_alloc", "out of memory")


class Model(Protocol):
    """What runs arrays by name, wherever its session is; see `OnnxModel`."""

    provider: str
    arithmetic: str
    on_cpu: tuple[str, ...]
    input_names: list[str]
    output_names: list[str]

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """Run once; see `OnnxModel.run`."""


class OnnxModel:
    """An ONNX file ready to run.

    Attributes:
        provider: The provider that really runs it: "cpu", "openvino", "cuda" or "tensorrt".
        arithmetic: What it computes float32 operators in.
        on_cpu: Operators that the provider lacks, sorted: ONNX Runtime's CPU provider runs them.
        input_names: In graph order.
        output_names: In graph order.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        provider: str,
        arithmetic: str = "float32",
        on_cpu: tuple[str, ...] = (),
    ) -> None:
        self._session = session
        self.provider, self.arithmetic, self.on_cpu = provider, arithmetic, on_cpu
        self.input_names = [node.name for node in session.get_inputs()]
        self.output_names = [node.name for node in session.get_outputs()]

    def run(self, inputs: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
        """Run once.

        Args:
            inputs: Array by input name.
            outputs: Names wanted; None means all.

        Returns:
            Array by output name.

        Raises:
            InferenceError: ONNX Runtime failed.
            MemoryError: There was not enough of it.
        """
        names = list(outputs) if outputs is not None else self.output_names
        try:
            return dict(zip(names, self._session.run(names, dict(inputs)), strict=True))
        # ONNX Runtime raises classes of its own, straight from Exception.
        except Exception as error:
            if any(words in str(error) for words in _OUT_OF_MEMORY):
                raise MemoryError(str(error)) from error
            raise InferenceError(f"model: expected an answer, but ONNX Runtime failed: {error}") from error


def open_session(
    model: Path | bytes,
    *,
    provider: str = "auto",
    arithmetic: str = "float32",
    threads: int | None = None,
    optimise: bool = True,
    disabled_optimizers: Sequence[str] = (),
    engines_dir: Path | None = None,
    in_order: bool = False,
) -> OnnxModel:
    """Open an ONNX model.

    Args:
        model: A file, or its content.
        provider: "cpu", "openvino", "cuda", "tensorrt", or "auto": CUDA where ONNX Runtime offers it, else the CPU.
        arithmetic: What the provider computes float32 operators in; see `ort_providers.ARITHMETIC`.
        threads: Threads inside an operator; None leaves the provider's choice (one per core).
        optimise: Whether ONNX Runtime rewrites the graph for speed.
        disabled_optimizers: Rewrites that it leaves out, by ONNX Runtime's names; a variant's recipe says which.
        engines_dir: Where TensorRT keeps the engines that it builds; None: nowhere.
        in_order: Whether operators run in the order of the graph, and memory is given back as soon as it is read. Left
            alone, ONNX Runtime runs what few read last, and keeps all memory that it ever took.

    Raises:
        ConfigError: An unknown provider, or one that this ONNX Runtime lacks or silently left out.
        BundleError: The file is not an ONNX model that the provider can load.
    """
    way = Way(_choose(provider), arithmetic)
    ort_providers.check(way)
    options = _session_options(threads=threads, optimise=optimise, in_order=in_order)
    providers = ort_providers.configure(
        options,
        way,
        threads=threads,
        engines_dir=engines_dir,
        is_quantised=way.provider == "tensorrt" and _is_quantised(model),
    )
    source = model if isinstance(model, bytes) else str(model)
    try:
        session = onnxruntime.InferenceSession(
            source,
            options,
            providers=providers,
            disabled_optimizers=list(disabled_optimizers),
            # Else a provider that fails is replaced by the CPU's, with a line on standard output.
            enable_fallback=0,
        )
    # ONNX Runtime raises classes of its own, straight from Exception, for a damaged or unsupported file.
    except Exception as error:
        what = "the model" if isinstance(model, bytes) else str(model)
        on = "" if way.provider == "cpu" else f" on {way.title}"
        raise BundleError(f"{what}: expected an ONNX model that ONNX Runtime can load{on}; {error}") from error
    return OnnxModel(session, way.provider, way.arithmetic, ort_providers.left_to_cpu(session, way))


def _session_options(*, threads: int | None, optimise: bool, in_order: bool) -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    # Idle threads that spin take the cores of the event loop and of other sessions.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if in_order:
        options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
        options.enable_cpu_mem_arena = options.enable_mem_pattern = False
    return options


def _choose(provider: str) -> str:
    if provider != "auto":
        return provider
    return "cuda" if PROVIDERS["cuda"] in onnxruntime.get_available_providers() else "cpu"


def _is_quantised(model: Path | bytes) -> bool:
    # A session says what is in a graph only once it is open.
    if isinstance(model, bytes):
        return b"QuantizeLinear" in model
    return model.is_file() and b"QuantizeLinear" in model.read_bytes()
