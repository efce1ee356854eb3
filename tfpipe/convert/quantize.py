"""INT8: a float32 model graph quantised by recipes, with ranges set by training samples.

On x86, unsigned activations and signed weights with one scale per output channel are more than twice as fast as signed
activations, the library's default.
"""

import contextlib
import copy
import io
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import onnx
import onnxruntime
from onnxruntime.quantization import CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import CalibrationDataReader, create_calibrator
from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import QuantizationMode, load_model_with_shape_infer
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry
from tqdm import tqdm

from tfpipe.convert.recipe import Recipe
from tfpipe.convert.stored_int8 import quantize_embeddings, store_kernels
from tfpipe.core.errors import ConversionError
from tfpipe.core.signature import Array

# Inputs of a graph by name.
Feed = Mapping[str, Array]

_IN_FLOAT = ("Softmax", "Sigmoid", "HardSigmoid")
_PRODUCTS = ("MatMul", "Gemm")
_METHODS = {
    "minmax": CalibrationMethod.MinMax,
    "entropy": CalibrationMethod.Entropy,
    "percentile": CalibrationMethod.Percentile,
}
# A tail of 1 value in 1,000 clipped at either end together; ranges that are not mirrored, as activations are unsigned.
_PERCENTILE = {"percentile": 99.9, "symmetric": False}
_ACTIVATIONS = {"uint8": QuantType.QUInt8, "int8": QuantType.QInt8}


class Quantizer:
    """Quantises one float32 graph by any number of recipes; each way of calibration runs once. A context manager.

    Args:
        model: Float32 model graph.
        batches: Its inputs: preprocessed training samples, padded as they are when served. A few rows each, as all
            activations of one are held in memory. Dynamic recipes need none.

    Raises:
        ConversionError: ONNX Runtime cannot load the graph.
        OSError: There is no room for temporary files.
    """

    def __init__(self, model: onnx.ModelProto, batches: Sequence[Feed]) -> None:
        self._source = _header(model)
        self.batches = batches
        self._folder = tempfile.TemporaryDirectory(prefix="tfpipe-int8-")
        self._prepared = Path(self._folder.name) / "prepared.onnx"
        self._ranges: dict[tuple[str, tuple[str, ...]], Any] = {}
        try:
            with _conversion_errors():
                prepare(model, self._prepared)
        except BaseException:
            self._folder.cleanup()
            raise

    def __enter__(self) -> "Quantizer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._folder.cleanup()

    def prepared(self) -> onnx.ModelProto:
        """The float32 graph as recipes quantise it, with the shapes that could be inferred; a new copy."""
        model = load_model_with_shape_infer(self._prepared)
        for node in model.graph.node:
            # Recipes and the library know nodes by their names.
            node.name = node.name or node.output[0]
        return model

    def ranges(self, recipe: Recipe) -> Any:
        """What values tensors hold, by name, as ONNX Runtime's quantiser takes them; of a static recipe."""
        key = recipe.calibration_method, tuple(operators_of(recipe))
        if key not in self._ranges:
            with _conversion_errors():
                self._ranges[key] = calibrate(self._prepared, self.batches, *key)
        # The quantiser changes them.
        return copy.deepcopy(self._ranges[key])

    def quantize(self, recipe: Recipe) -> onnx.ModelProto:
        """The graph in INT8.

        Raises:
            ConversionError: The graph cannot be quantised.
            OSError: There is no room for temporary files.
        """
        with _conversion_errors():
            quantized = self._dynamic(recipe) if recipe.is_dynamic else self._static(recipe)
            if recipe.operators == "products":
                quantize_embeddings(quantized)
                store_kernels(quantized, recipe.keep)
                # With the shapes that the quantiser inferred, ONNX Runtime fuses normalisation with the sum before it:
                # 8 % slower.
                del quantized.graph.value_info[:]
        return with_header(quantized, self._source)

    def _static(self, recipe: Recipe) -> onnx.ModelProto:
        operators, graph = operators_of(recipe), self.prepared()
        nodes = quantized_nodes(graph, recipe)
        if not nodes:
            # The library takes an empty list for all of them.
            return graph
        quantizer = QDQQuantizer(
            graph,
            recipe.per_channel,
            recipe.reduce_range,
            QuantType.QInt8,
            _ACTIVATIONS[recipe.activations],
            self.ranges(recipe),
            nodes,
            [],
            operators,
            {} if recipe.operators == "all" else {"OpTypesToExcludeOutputQuantization": list(_PRODUCTS)},
        )
        quantizer.quantize_model()
        if recipe.operators == "products":
            _keep_exact(quantizer.model.model, operators)
        quantizer.model.topological_sort()
        return quantizer.model.model

    def _dynamic(self, recipe: Recipe) -> onnx.ModelProto:
        quantizer = ONNXQuantizer(
            self.prepared(),
            recipe.per_channel,
            recipe.reduce_range,
            QuantizationMode.IntegerOps,
            False,
            QuantType.QInt8,
            QuantType.QUInt8,
            None,
            [],
            # The library splits Gemm into a product of this name and a sum.
            [*recipe.keep, *(f"{name}_MatMul" for name in recipe.keep)],
            list(_PRODUCTS),
            {"MatMulConstBOnly": True},
        )
        quantizer.quantize_model()
        return quantizer.model.model


def to_int8(model: onnx.ModelProto, batches: Sequence[Feed], recipe: Recipe) -> onnx.ModelProto:
    """Quantise a graph by one recipe; see `Quantizer`."""
    with Quantizer(model, batches) as quantizer:
        return quantizer.quantize(recipe)


def operators_of(recipe: Recipe) -> list[str]:
    """Types of operators that a static recipe computes in INT8."""
    if recipe.operators == "products":
        return [*_PRODUCTS, "Conv"]
    return sorted((set(QDQRegistry) | set(QLinearOpsRegistry)) - set(_IN_FLOAT))


def quantized_nodes(graph: onnx.ModelProto, recipe: Recipe) -> list[str]:
    """Names of the nodes that a static recipe computes in INT8."""
    operators, weights = operators_of(recipe), {tensor.name: tensor for tensor in graph.graph.initializer}

    def is_quantized(node: onnx.NodeProto) -> bool:
        if node.op_type not in operators or node.name in recipe.keep:
            return False
        if recipe.keep_depthwise and is_depthwise(node, weights):
            return False
        # The products inside attention have no stored weight.
        return recipe.operators == "all" or node.input[1] in weights

    return [node.name for node in graph.graph.node if is_quantized(node)]


def is_depthwise(node: onnx.NodeProto, weights: Mapping[str, onnx.TensorProto]) -> bool:
    """Whether a node is a convolution of each channel by itself."""
    if node.op_type != "Conv" or node.input[1] not in weights:
        return False
    group = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
    return bool(group > 1 and weights[node.input[1]].dims[1] == 1)


class _Batches(CalibrationDataReader):
    def __init__(self, batches: Iterator[Feed]) -> None:
        self._batches = batches

    def get_next(self) -> dict[str, Array] | None:
        feed = next(self._batches, None)
        return None if feed is None else dict(feed)


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


def calibrate(prepared: Path, batches: Sequence[Feed], method: str, operators: Sequence[str]) -> Any:
    """Ranges of what operators take and give.

    Args:
        prepared: What `prepare` wrote.
        batches: The graph's inputs.
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


def _header(model: onnx.ModelProto) -> onnx.ModelProto:
    """What `with_header` takes of a model, without its weights."""
    header = onnx.ModelProto(producer_name=model.producer_name, producer_version=model.producer_version)
    header.metadata_props.extend(model.metadata_props)
    header.graph.input.extend(model.graph.input)
    header.graph.output.extend(model.graph.output)
    return header


@contextlib.contextmanager
def _conversion_errors() -> Iterator[None]:
    """The library raises whatever it hits, from KeyError to plain Exception."""
    try:
        yield
    except (OSError, ConversionError):
        raise
    except Exception as error:
        raise ConversionError(f"int8: expected a graph that can be quantised; {error}") from error


def _keep_exact(model: onnx.ModelProto, operators: Sequence[str]) -> None:
    """Have all but these operators read what was not rounded; the quantiser gives the rounded to each reader."""
    given = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "QuantizeLinear"}
    exact = {
        node.output[0]: given[node.input[0]]
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in given
    }
    for node in model.graph.node:
        if node.op_type not in operators:
            for position, name in enumerate(node.input):
                node.input[position] = exact.get(name, name)
