"""INT8 for text networks: products with stored weights, convolutions and embeddings.

Static: ranges are set by training rows, so that a row's answer does not depend on the rows beside it. Only what goes
into a product with a stored weight is rounded; what comes out, attention, normalisation and activations stay float32.
Dynamic: ranges are those of each batch, so that it does. Recurrent layers compute in float32 either way.
"""

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import QuantizationMode, load_model_with_shape_infer

from tfpipe.convert.quantize import calibrate, prepare, with_header
from tfpipe.convert.stored_int8 import quantize_embeddings, store_kernels
from tfpipe.core.errors import ConversionError
from tfpipe.core.signature import Array
from tfpipe.settings import ConversionConfig

_PRODUCTS = ("MatMul", "Gemm")
_DYNAMIC = "dynamic"


@dataclass(frozen=True)
class TextRecipe:
    """How the model graph of a text network is quantised.

    Attributes:
        calibration_method: "minmax", "entropy", "percentile"; "dynamic": the range of each batch as it comes.
        per_channel: One scale per output channel of a weight.
        disabled_optimizers: What ONNX Runtime is to leave out as it loads the variant.
    """

    calibration_method: str
    per_channel: bool
    disabled_optimizers: tuple[str, ...] = ()

    @property
    def is_dynamic(self) -> bool:
        """Whether a row's answer depends on the rows beside it."""
        return self.calibration_method == _DYNAMIC

    def describe(self) -> dict[str, Any]:
        """For the bundle's manifest."""
        return {
            "format": "MatMulInteger" if self.is_dynamic else "QDQ",
            "activations": "uint8",
            "weights": "int8",
            "computed_in_int8": "products with stored weights" + ("" if self.is_dynamic else ", convolutions"),
            "stored_in_int8": "embeddings, one scale per row; kernels of recurrent layers"
            + (" and convolutions" if self.is_dynamic else ""),
            **asdict(self),
            "disabled_optimizers": list(self.disabled_optimizers),
        }


def text_recipes(config: ConversionConfig) -> tuple[TextRecipe, ...]:
    """What to try, in order, until the accuracy holds; those whose rows do not depend on each other come first."""
    if config.calibration_method != "auto":
        return (TextRecipe(config.calibration_method, config.per_channel),)
    return (
        TextRecipe("minmax", config.per_channel),
        TextRecipe("percentile", config.per_channel),
        # The fused normalisation is slower in a dynamically quantised graph.
        TextRecipe(_DYNAMIC, config.per_channel, ("SkipLayerNormFusion",)),
    )


def text_to_int8(model: onnx.ModelProto, batches: Sequence[Array], recipe: TextRecipe) -> onnx.ModelProto:
    """Quantise a float32 text graph.

    Args:
        model: Float32 model graph with the input `input`.
        batches: (rows, sequence) int32 each, training rows padded as they are when served, a few to a batch, as all
            activations of one are held in memory; a dynamic recipe needs none.
        recipe: How.

    Raises:
        ConversionError: The graph cannot be quantised.
        OSError: There is no room for temporary files.
    """
    with tempfile.TemporaryDirectory(prefix="tfpipe-int8-") as folder:
        prepared = Path(folder) / "prepared.onnx"
        try:
            prepare(model, prepared)
            quantized = _dynamic(prepared, recipe) if recipe.is_dynamic else _static(prepared, batches, recipe)
            quantize_embeddings(quantized)
            store_kernels(quantized)
        except OSError:
            raise
        # The library raises whatever else it hits, from KeyError to plain Exception.
        except Exception as error:
            raise ConversionError(f"int8: expected a text graph that can be quantised; {error}") from error
    # With the shapes that the quantiser inferred, ONNX Runtime fuses normalisation with the sum before it: 8 % slower.
    del quantized.graph.value_info[:]
    return with_header(quantized, model)


def _static(prepared: Path, batches: Sequence[Array], recipe: TextRecipe) -> onnx.ModelProto:
    operators = (*_PRODUCTS, "Conv")
    ranges = calibrate(prepared, batches, recipe.calibration_method, operators)
    graph = load_model_with_shape_infer(prepared)
    quantizer = QDQQuantizer(
        graph,
        recipe.per_channel,
        False,
        QuantType.QInt8,
        QuantType.QUInt8,
        ranges,
        _with_stored_weights(graph, operators),
        [],
        list(operators),
        {"OpTypesToExcludeOutputQuantization": list(_PRODUCTS)},
    )
    quantizer.quantize_model()
    _keep_exact(quantizer.model.model, operators)
    quantizer.model.topological_sort()
    return quantizer.model.model


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


def _dynamic(prepared: Path, recipe: TextRecipe) -> onnx.ModelProto:
    graph = load_model_with_shape_infer(prepared)
    quantizer = ONNXQuantizer(
        graph,
        recipe.per_channel,
        False,
        QuantizationMode.IntegerOps,
        False,
        QuantType.QInt8,
        QuantType.QUInt8,
        None,
        [],
        [],
        list(_PRODUCTS),
        {"MatMulConstBOnly": True},
    )
    quantizer.quantize_model()
    return quantizer.model.model


def _with_stored_weights(graph: onnx.ModelProto, operators: Sequence[str]) -> list[str]:
    """Names of nodes that multiply by a weight; the products inside attention have none."""
    stored = {tensor.name for tensor in graph.graph.initializer}
    return [node.name for node in graph.graph.node if node.op_type in operators and node.input[1] in stored]
