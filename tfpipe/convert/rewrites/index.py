"""A graph looked up by its tensors, for passes that match patterns."""

import numpy as np
import onnx
from onnx import numpy_helper

from tfpipe.core.signature import Array


class GraphIndex:
    """Who gives each tensor of the outer graph.

    Args:
        model: Not to be changed while the index is used.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._producers = {name: node for node in model.graph.node for name in node.output}
        self._stored = {tensor.name: tensor for tensor in model.graph.initializer}

    def producer(self, name: str, *op_types: str) -> onnx.NodeProto | None:
        """The node that gives a tensor, where it is of one of these types of the standard."""
        node = self._producers.get(name)
        return node if node is not None and node.op_type in op_types and not node.domain else None

    def constant(self, name: str) -> Array | None:
        """A stored tensor, or what a Constant node gives."""
        if name in self._stored:
            return _array(self._stored[name])
        node = self.producer(name, "Constant")
        return None if node is None else _value(node)

    def is_number(self, name: str, value: float) -> bool:
        """Whether a tensor is one stored number, up to float32's rounding."""
        stored = self._stored.get(name)
        if stored is not None and np.prod(stored.dims) != 1:
            return False
        constant = self.constant(name)
        return constant is not None and constant.size == 1 and bool(np.isclose(constant.ravel()[0], value, rtol=1e-6))


def _value(node: onnx.NodeProto) -> Array | None:
    tensor = next((attribute.t for attribute in node.attribute if attribute.name == "value"), None)
    number = next((attribute.f for attribute in node.attribute if attribute.name == "value_float"), None)
    if tensor is not None:
        return _array(tensor)
    return None if number is None else np.float32(number).reshape(())


def _array(tensor: onnx.TensorProto) -> Array:
    values: Array = numpy_helper.to_array(tensor)
    return values
