"""What a model graph stores in which precision, read from the graph itself."""

from collections.abc import Iterator

import onnx
from onnx import TensorProto

from tfpipe.convert.quantize import is_depthwise

_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
_IN_BLOCKS = "MatMulNBits"
_FLOATS = {TensorProto.FLOAT: "float32", TensorProto.FLOAT16: "float16"}
_INTEGERS = {TensorProto.INT8: "int8", TensorProto.UINT8: "uint8"}
_LOW = {
    "fp32": ("float32",),
    "fp16": ("float16",),
    "int8": ("int8", "uint8"),
    "int8_weights": ("int8",),
    # Embeddings, which are read a row at a time, keep 8 bits.
    "int4": ("int4", "int8"),
}


def weight_bytes(model: onnx.ModelProto) -> int:
    """Bytes of all numbers that the graph stores, scales and zero points included; shapes and indices are none."""
    counted = (*_FLOATS, *_INTEGERS, TensorProto.INT32)
    return sum(_bytes(tensor) for tensor in model.graph.initializer if tensor.data_type in counted)


def list_weights(model: onnx.ModelProto, precision: str, reasons: dict[str, str]) -> dict[str, dict[str, str]]:
    """Every stored weight: converted to the precision, or kept in another.

    Scales and zero points of quantisation are part of how a weight is stored, and not listed.

    Args:
        model: The graph of a variant.
        precision: Of the variant.
        reasons: Why a weight was kept, by name, where the converter said so.

    Returns:
        {"converted": {name: dtype}, "kept": {name: reason}}.
    """
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    users, parameters, packed = _users(model), _quantization_parameters(model), _packed(model)
    converted: dict[str, str] = {}
    kept: dict[str, str] = {}
    for name, tensor in initializers.items():
        if name in parameters:
            continue
        dtype = packed.get(name) or _FLOATS.get(tensor.data_type) or _INTEGERS.get(tensor.data_type)
        if dtype in _LOW[precision]:
            converted[name] = dtype
        elif dtype is not None:
            kept[name] = f"{dtype}: {reasons.get(name) or _reason(users.get(name, []), initializers)}"
        elif tensor.data_type == TensorProto.INT32 and any(
            n.op_type == "DequantizeLinear" for n in users.get(name, [])
        ):
            kept[name] = "int32: a bias, added to int32 sums of products"
    return {"converted": converted, "kept": kept}


def _reason(users: list[onnx.NodeProto], weights: dict[str, onnx.TensorProto]) -> str:
    if any(is_depthwise(node, weights) for node in users):
        return "depthwise convolutions were kept, for accuracy"
    names = sorted({node.op_type for node in users})
    return f"{', '.join(names)} is computed in float32" if names else "no operator uses it"


def _users(model: onnx.ModelProto) -> dict[str, list[onnx.NodeProto]]:
    users: dict[str, list[onnx.NodeProto]] = {}
    for node in _nodes(model.graph):
        for name in node.input:
            users.setdefault(name, []).append(node)
    return users


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _nodes(attribute.g)


def _packed(model: onnx.ModelProto) -> dict[str, str]:
    """What weights of products that are stored in blocks of bytes are."""
    return {
        node.input[1]: f"int{next(a.i for a in node.attribute if a.name == 'bits')}"
        for node in model.graph.node
        if node.op_type == _IN_BLOCKS
    }


def _quantization_parameters(model: onnx.ModelProto) -> set[str]:
    parameters = {name for node in model.graph.node if node.op_type in _QUANTIZERS for name in node.input[1:]}
    parameters |= {name for node in model.graph.node if node.op_type == _IN_BLOCKS for name in node.input[2:]}
    names = {tensor.name for tensor in model.graph.initializer}
    # Products of integers, and tables whose rows are multiplied out, take theirs otherwise.
    for name in names:
        weight = name.removesuffix("_scale").removesuffix("_zero_point")
        if weight != name and f"{weight}_quantized" in names:
            parameters.add(name)
    return parameters


def _bytes(tensor: onnx.TensorProto) -> int:
    return int(onnx.numpy_helper.to_array(tensor).nbytes)
