"""Signs of numbers as ONNX nodes: a handler for the converter.

keras.ops.argmax and argmin look at the sign bit of -0.0: TensorFlow takes a float's bits for an integer (Bitcast) and
keeps the first of them. ONNX has no Bitcast before operator set 26, but there too 1 / -0.0 is minus infinity.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import TensorProto

from tfpipe.convert.resize import Handler
from tfpipe.core.errors import ConversionError


def sign_bits(graph: Any, node: Any, name: str, _: Sequence[Any]) -> None:
    """Bitcast of float32 to int32 of which only the sign is asked for: -1, all bits set, where it is set, else 0.

    Raises:
        ConversionError: Its bits are used otherwise.
    """
    users = graph.find_output_consumers(node.output[0])
    if graph.get_dtype(node.input[0]) != TensorProto.FLOAT or not all(_asks_sign(user) for user in users):
        raise ConversionError(
            f"{name}: expected the bits of float32 numbers to be looked at for their sign only, as argmax does; ONNX "
            "has no Bitcast."
        )
    zero = graph.make_const(f"{name}/zero", np.array(0, np.float32)).output[0]
    (given,), (taken,) = list(node.input), list(node.output)
    shapes, dtypes = node.output_shapes, node.output_dtypes
    below = graph.make_node("Less", [given, zero], name=f"{name}/below").output[0]
    inverse = graph.make_node("Reciprocal", [given], name=f"{name}/inverse").output[0]
    inverse_below = graph.make_node("Less", [inverse, zero], name=f"{name}/inverse_below").output[0]
    either = graph.make_node("Or", [below, inverse_below], name=f"{name}/either").output[0]
    whole = graph.make_node("Cast", [either], name=f"{name}/whole", attr={"to": TensorProto.INT32}).output[0]
    graph.remove_node(node.name)
    graph.make_node("Neg", [whole], name=node.name, outputs=[taken], shapes=shapes, dtypes=dtypes)


def _asks_sign(user: Any) -> bool:
    if user.type != "BitwiseAnd":
        return False
    masks = [given.get_tensor_value() for given in user.inputs if given.is_const()]
    return masks == [np.iinfo(np.int32).min]


HANDLERS: dict[str, Handler] = {"Bitcast": sign_bits}
