"""The one way we run ONNX: verification and the service open their sessions here, so that they agree."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import onnxruntime

from tfpipe.core.errors import BundleError, ConfigError, InferenceError
from tfpipe.core.signature import Array

_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
# What ONNX Runtime and the CUDA allocator say where memory runs out; they have no error class for it.
_OUT_OF_MEMORY = ("Failed to allocate memory", "bad allocation", "std::bad_alloc", "out of memory")


class OnnxModel:
    """An ONNX file ready to run.

    Attributes:
        provider: The provider that really runs it: "cpu", "cuda" or "tensorrt".
        input_names: In graph order.
        output_names: In graph order.
    """

    def __init__(self, session: onnxruntime.InferenceSession, provider: str) -> None:
        self._session = session
        self.provider = provider
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
    threads: int | None = None,
    optimise: bool = True,
    disabled_optimizers: Sequence[str] = (),
) -> OnnxModel:
    """Open an ONNX model.

    Args:
        model: A file, or its content.
        provider: "cpu", "cuda", "tensorrt", or "auto": CUDA where ONNX Runtime offers it, else the CPU.
        threads: Threads inside an operator; None leaves ONNX Runtime's choice (one per core).
        optimise: Whether ONNX Runtime rewrites the graph for speed.
        disabled_optimizers: Rewrites that it leaves out, by ONNX Runtime's names; a variant's recipe says which.

    Raises:
        ConfigError: An unknown provider, or one that this ONNX Runtime lacks or silently left out.
        BundleError: The file is not an ONNX model that ONNX Runtime can load.
    """
    chosen = _choose(provider)
    options = onnxruntime.SessionOptions()
    # Idle threads that spin take the cores of the event loop and of other sessions.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    if not optimise:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    source = model if isinstance(model, bytes) else str(model)
    try:
        session = onnxruntime.InferenceSession(
            source, options, providers=[_PROVIDERS[chosen]], disabled_optimizers=list(disabled_optimizers)
        )
    # ONNX Runtime raises classes of its own, straight from Exception, for a damaged or unsupported file.
    except Exception as error:
        what = "the model" if isinstance(model, bytes) else str(model)
        raise BundleError(f"{what}: expected an ONNX model that ONNX Runtime can load; {error}") from error
    if session.get_providers()[0] != _PROVIDERS[chosen]:
        raise ConfigError(
            f"provider: expected {chosen!r} to run, but ONNX Runtime fell back to {session.get_providers()}."
        )
    return OnnxModel(session, chosen)


def _choose(provider: str) -> str:
    available = onnxruntime.get_available_providers()
    if provider == "auto":
        return "cuda" if _PROVIDERS["cuda"] in available else "cpu"
    if provider not in _PROVIDERS:
        raise ConfigError(f"provider: expected one of auto, {', '.join(_PROVIDERS)}; received {provider!r}.")
    if _PROVIDERS[provider] not in available:
        raise ConfigError(f"provider: expected one of {available}, received {provider!r}, which is not installed here.")
    return provider
