"""Another ONNX operator set."""

import onnx
from onnx import helper, version_converter

from tfpipe.convert.onnx_file import light_copy, restore_tensors
from tfpipe.core.errors import ConversionError

# The newest that tf2onnx writes; newer ones are made of it.
NEWEST_WRITTEN = 18


def opset_of(model: onnx.ModelProto) -> int:
    """Version of the standard operators that a graph uses."""
    return int(next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")))


class ConvertOpset:
    """Rewrites a graph for a newer version of ONNX's standard operators, by ONNX's own converter.

    Args:
        opset: The version.
    """

    name = "convert_opset"

    def __init__(self, opset: int) -> None:
        self._opset = opset

    def __call__(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """See `GraphPass`.

        Raises:
            ConversionError: The version is older than the graph's, or an operator has no form in it.
        """
        written = opset_of(model)
        if written == self._opset:
            return model
        # Downwards ONNX's converter has most operators missing, and crashes on some.
        if written > self._opset:
            raise ConversionError(
                f"conversion.opset: expected at least {written}, which the model's operators were written for, "
                f"received {self._opset}."
            )
        try:
            converted = version_converter.convert_version(light_copy(model), self._opset)
        # RuntimeError, in ONNX's C++ an assertion, for operators and versions that it does not know.
        except (RuntimeError, version_converter.ConvertError) as error:
            raise ConversionError(
                f"conversion.opset: expected a version that every operator of the model has, received {self._opset}: "
                f"{error}. Written for {written}; leave the key out for the default."
            ) from error
        restore_tensors(converted, model)
        # The converter leaves the file format as it was; newer operators need a newer one.
        converted.ir_version = max(model.ir_version, helper.find_min_ir_version_for(converted.opset_import, True))
        return converted
