"""Names of a graph's axes."""

from collections.abc import Sequence

import onnx

from tfpipe.core.signature import TensorSpec


class NameAxes:
    """Gives the axes of inputs and outputs the names and lengths of their specification; the converter numbers them.

    Args:
        specs: Of inputs and outputs, by the names that these have in the graph.
    """

    name = "name_axes"

    def __init__(self, specs: Sequence[TensorSpec]) -> None:
        self._specs = {spec.name: spec for spec in specs}

    def __call__(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """See `GraphPass`; in place."""
        for value in (*model.graph.input, *model.graph.output):
            shape = self._specs[value.name].shape
            for dim, length in zip(value.type.tensor_type.shape.dim, shape, strict=True):
                if isinstance(length, str):
                    dim.dim_param = length
                else:
                    dim.dim_value = length
        return model
