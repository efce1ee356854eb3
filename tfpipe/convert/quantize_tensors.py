"""INT8 of a model of named tensors: static, ranges set by samples of every input."""

import contextlib
import io
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx
from onnxruntime.quantization import CalibrationMethod, QuantType
from onnxruntime.quantization.calibrate import CalibrationDataReader, create_calibrator
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import load_model_with_shape_infer

from tfpipe.convert.quantize import prepare, with_header
from tfpipe.core.errors import ConversionError
from tfpipe.core.signature import Array

# What pays: products with stored weights. The rest of a graph that nobody knows stays in float32.
_OPERATORS = ("Conv", "Gemm", "MatMul")
RECIPE: dict[str, Any] = {
    "format": "QDQ",
    "activations": "uint8",
    "weights": "int8",
    "computed_in_int8": "products with stored weights, convolutions",
    "calibration_method": "minmax",
    "per_channel": True,
}


def tensors_to_int8(model: onnx.ModelProto, samples: Sequence[Mapping[str, Array]]) -> onnx.ModelProto:
    """Quantise a float32 graph of any inputs and outputs; what the products give stays float32.

    Args:
        model: Float32 graph.
        samples: Array by input name, batch axis included.

    Raises:
        ConversionError: It cannot be quantised, or holds no product with a stored weight.
        OSError: There is no room for temporary files.
    """
    with tempfile.TemporaryDirectory(prefix="tfpipe-int8-") as folder:
        prepared = Path(folder) / "prepared.onnx"
        try:
            prepare(model, prepared)
            graph = load_model_with_shape_infer(prepared)
            chosen = _products(graph)
            ranges = _ranges(prepared, samples) if chosen else None
            quantizer = QDQQuantizer(
                graph, True, False, QuantType.QInt8, QuantType.QUInt8, ranges, chosen, [], list(_OPERATORS),
                {"OpTypesToExcludeOutputQuantization": list(_OPERATORS)},
            )  # fmt: skip
            if chosen:
                quantizer.quantize_model()
                quantizer.model.topological_sort()
        except OSError:
            raise
        # The library raises whatever else it hits, from KeyError to plain Exception.
        except Exception as error:
            raise ConversionError(f"int8: expected a graph that can be quantised; {error}") from error
    if not chosen:
        raise ConversionError("int8: expected products with stored weights or convolutions to quantise, found none.")
    return with_header(quantizer.model.model, model)


class _Samples(CalibrationDataReader):
    def __init__(self, samples: Iterator[Mapping[str, Array]]) -> None:
        self._samples = samples

    def get_next(self) -> dict[str, Array] | None:
        sample = next(self._samples, None)
        return None if sample is None else dict(sample)


def _ranges(prepared: Path, samples: Sequence[Mapping[str, Array]]) -> Any:
    calibrator = create_calibrator(
        prepared,
        list(_OPERATORS),
        augmented_model_path=str(prepared.with_name("augmented.onnx")),
        calibrate_method=CalibrationMethod.MinMax,
    )
    # It prints each step to standard output.
    with contextlib.redirect_stdout(io.StringIO()):
        calibrator.collect_data(_Samples(iter(samples)))
        return calibrator.compute_data()


def _products(model: onnx.ModelProto) -> list[str]:
    stored = {tensor.name for tensor in model.graph.initializer}
    return [node.name for node in model.graph.node if node.op_type in _OPERATORS and node.input[1] in stored]
