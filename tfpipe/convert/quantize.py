"""INT8: static quantisation of a model graph, ranges set by training samples.

Activations are unsigned and weights signed with one scale per output channel: on x86 more than twice as fast as signed
activations, the library's default. Softmax and Sigmoid stay in float32: stored in steps of 1/255 their small values
would be 0.
"""

import contextlib
import io
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import CalibrationDataReader, create_calibrator
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import load_model_with_shape_infer
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry
from tqdm import tqdm

from tfpipe.core.errors import ConversionError
from tfpipe.core.signature import Array
from tfpipe.settings import ConversionConfig

_IN_FLOAT = ("Softmax", "Sigmoid", "HardSigmoid")
_METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}
# A tail of 1 value in 1,000 clipped at either end together; ranges that are not mirrored, as activations are unsigned.
_PERCENTILE = {"percentile": 99.9, "symmetric": False}
# Histograms keep every activation of a batch in memory.
_BATCH = 4


@dataclass(frozen=True)
class Recipe:
    """How a model graph is quantised.

    Attributes:
        calibration_method: "minmax", "entropy" or "percentile".
        per_channel: One scale per output channel of a weight.
        keep_depthwise: Depthwise convolutions stay in float32: few weights, whose channels differ most in range.
    """

    calibration_method: str
    per_channel: bool
    keep_depthwise: bool = False

    def describe(self) -> dict[str, Any]:
        """For the bundle's manifest."""
        return {"format": "QDQ", "activations": "uint8", "weights": "int8", **asdict(self)}


def recipes(config: ConversionConfig) -> tuple[Recipe, ...]:
    """What to try, in order, until the accuracy holds."""
    if config.calibration_method != "auto":
        return (Recipe(config.calibration_method, config.per_channel),)
    return (
        Recipe("minmax", config.per_channel),
        Recipe("percentile", config.per_channel, keep_depthwise=True),
    )


def to_int8(model: onnx.ModelProto, rows: Array, recipe: Recipe) -> onnx.ModelProto:
    """Quantise a float32 model graph.

    Args:
        model: Float32 model graph with the input `input`.
        rows: (n, height, width, 3) float32, preprocessed training samples.
        recipe: How.

    Raises:
        ConversionError: The graph cannot be quantised.
        OSError: There is no room for temporary files.
    """
    batches = [rows[start : start + _BATCH] for start in range(0, len(rows), _BATCH)]
    with tempfile.TemporaryDirectory(prefix="tfpipe-int8-") as folder:
        prepared = Path(folder) / "prepared.onnx"
        try:
            prepare(model, prepared)
            ranges = calibrate(prepared, batches, recipe.calibration_method, _operators())
            graph = load_model_with_shape_infer(prepared)
            quantizer = QDQQuantizer(
                graph,
                recipe.per_channel,
                False,
                QuantType.QInt8,
                QuantType.QUInt8,
                ranges,
                [],
                _excluded(graph, recipe),
                _operators(),
                {},
            )
            quantizer.quantize_model()
            quantizer.model.topological_sort()
        except OSError:
            raise
        # The library raises whatever else it hits, from KeyError to plain Exception.
        except Exception as error:
            raise ConversionError(f"int8: expected a graph that can be quantised; {error}") from error
        return with_header(quantizer.model.model, model)


def is_depthwise(node: onnx.NodeProto, weights: dict[str, onnx.TensorProto]) -> bool:
    """Whether a node is a convolution of each channel by itself."""
    if node.op_type != "Conv" or node.input[1] not in weights:
        return False
    group = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
    return bool(group > 1 and weights[node.input[1]].dims[1] == 1)


class _Batches(CalibrationDataReader):
    def __init__(self, batches: Iterator[Array]) -> None:
        self._batches = batches

    def get_next(self) -> dict[str, Array] | None:
        rows = next(self._batches, None)
        return None if rows is None else {"input": rows}


def prepare(model: onnx.ModelProto, target: Path) -> None:
    """Fold batch normalisation and constants, so that convolution, bias and activation become one INT8 kernel."""
    content = model.SerializeToString()
    # ONNX Runtime, which writes it again, does not say that a disk is full.
    target.write_bytes(content)
    options = onnxruntime.SessionOptions()
    # Basic: rewrites within the ONNX standard that hold on any machine.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 3
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def calibrate(prepared: Path, batches: Sequence[Array], method: str, operators: Sequence[str]) -> Any:
    """Ranges of what operators take and give.

    Args:
        prepared: What `prepare` wrote.
        batches: Of the graph's `input`.
        method: "minmax", "entropy" or "percentile".
        operators: Types of operators.
    """
    calibrator = create_calibrator(
        prepared,
        list(operators),
        augmented_model_path=str(prepared.with_name("augmented.onnx")),
        calibrate_method=_METHODS[method],
        extra_options=_PERCENTILE if method == "percentile" else {},
    )
    # It prints each step to standard output.
    with contextlib.redirect_stdout(io.StringIO()):
        for batch in tqdm(batches, desc=f"calibrating ({method})", leave=False, disable=None):
            calibrator.collect_data(_Batches(iter([batch])))
        return calibrator.compute_data()


def _operators() -> list[str]:
    return sorted((set(QDQRegistry) | set(QLinearOpsRegistry)) - set(_IN_FLOAT))


def _excluded(graph: onnx.ModelProto, recipe: Recipe) -> Sequence[str]:
    if not recipe.keep_depthwise:
        return []
    weights = {tensor.name: tensor for tensor in graph.graph.initializer}
    return [node.name for node in graph.graph.node if is_depthwise(node, weights)]


def with_header(quantized: onnx.ModelProto, source: onnx.ModelProto) -> onnx.ModelProto:
    """Give the quantised graph the names, axes and metadata of the one it came from."""
    quantized.producer_name, quantized.producer_version = source.producer_name, source.producer_version
    onnx.helper.set_model_props(quantized, {entry.key: entry.value for entry in source.metadata_props})
    for values, originals in (
        (quantized.graph.input, source.graph.input),
        (quantized.graph.output, source.graph.output),
    ):
        for value, original in zip(values, originals, strict=True):
            value.CopyFrom(original)
    return quantized
