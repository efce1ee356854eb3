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
from onnxruntime.quantization import CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import CalibrationDataReader, create_calibrator
from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import QuantizationMode, load_model_with_shape_infer
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry
from tqdm import tqdm

from tfpipe.convert.onnx_file import header_of, input_specs, restore_header, save_model
from tfpipe.convert.recipe import Recipe
from tfpipe.convert.rewrites.fold import FOLD
from tfpipe.convert.stored_int8 import quantize_embeddings, store_kernels
from tfpipe.core.errors import ConversionError, DataError, SignatureError, TfpipeError
from tfpipe.core.signature import Array, TensorSpec

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
        self._source, self._specs = header_of(model), input_specs(model)
        self.batches = batches
        self._folder = tempfile.TemporaryDirectory(prefix="tfpipe-int8-")
        self._prepared = Path(self._folder.name) / "prepared.onnx"
        self._ranges: dict[tuple[str, tuple[str, ...]], Any] = {}
        with contextlib.ExitStack() as undo, _conversion_errors():
            undo.callback(self._folder.cleanup)
            # So that convolution, bias and activation become one INT8 kernel.
            save_model(FOLD(model), self._prepared)
            undo.pop_all()

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
        """What values tensors hold, by name, as ONNX Runtime's quantiser takes them; of a static recipe.

        Raises:
            DataError: There are no calibration samples, or they are not what the graph takes.
        """
        key = recipe.calibration_method, tuple(operators_of(recipe))
        if key not in self._ranges:
            with _conversion_errors():
                self._ranges[key] = calibrate(self._prepared, self._specs, self.batches, *key)
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
        return restore_header(quantized, self._source)

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


def calibrate(
    prepared: Path, specs: Sequence[TensorSpec], batches: Sequence[Feed], method: str, operators: Sequence[str]
) -> Any:
    """Ranges of what operators take and give.

    Args:
        prepared: The graph's file.
        specs: What the graph takes.
        batches: Of these inputs.
        method: "minmax", "entropy" or "percentile".
        operators: Types of operators.

    Raises:
        DataError: There are no batches, or one is not what the graph takes.
    """
    if not batches:
        raise DataError(
            "calibration: expected training samples, which set the ranges of int8, received none. Training keeps them "
            "in `calibration/`; without them convert with --precision fp16."
        )
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
            _check_calibration(specs, batch)
            calibrator.collect_data(_Batches(iter([batch])))
        return calibrator.compute_data()


def _check_calibration(specs: Sequence[TensorSpec], feed: Feed) -> None:
    for spec in specs:
        try:
            spec.check(feed[spec.name])
        except (KeyError, SignatureError) as error:
            reason = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise DataError(f"calibration samples do not fit the model: {reason}") from error


@contextlib.contextmanager
def _conversion_errors() -> Iterator[None]:
    """The library raises whatever it hits, from KeyError to plain Exception."""
    try:
        yield
    except (OSError, TfpipeError):
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
