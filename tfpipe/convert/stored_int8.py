"""Weights stored as INT8 and multiplied out again as they are used: embeddings, and what no INT8 kernel takes.

Each row of a table, and each output channel of a kernel, has a scale of its own: values become
round(value / scale), scale = max|values| / 127. What is used is float32, and the same whatever the batch holds.
"""

from collections.abc import Collection, Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tfpipe.core.signature import Array

# Smaller weights are not worth the operators.
_LEAST_NUMBERS = 1024
_LARGEST = 127
# Inputs that are kernels, by operator, and the axis of their output channels.
_KERNELS = {"LSTM": (1, 2), "GRU": (1, 2), "RNN": (1, 2), "Conv": (1,), "Gemm": (1,)}


def quantize_embeddings(model: onnx.ModelProto) -> None:
    """Store the tables that rows are taken from as int8 with a float32 scale for each row; in place.

    So that rare words lose nothing to common ones. A table that something else reads whole, such as an output layer
    that shares it, stays as it is.
    """
    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    tables = {node.input[0] for node in graph.node if _takes_rows(node, stored)}
    tables -= {name for node in graph.node for name in _other_inputs(node, stored)}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        nodes.extend(_dequantized(node) if node.input[:1] and node.input[0] in tables else [node])
    _replace_nodes(graph, nodes)
    for name in sorted(tables):
        rounded, scale = _rounded(numpy_helper.to_array(stored[name]), axis=0)
        _replace_weight(graph, stored[name], {"quantized": rounded, "scale": scale})


def store_kernels(model: onnx.ModelProto, kept: Collection[str] = ()) -> None:
    """Store the float32 kernels of recurrent layers, convolutions and Gemm as int8, a scale a channel; in place.

    Args:
        model: The graph.
        kept: Names of nodes whose kernels stay.
    """
    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    axes: dict[str, int] = {}
    for node in graph.node:
        for position in _KERNELS.get(node.op_type, ()) if node.name not in kept else ():
            name = node.input[position]
            if name in stored and stored[name].data_type == TensorProto.FLOAT and _is_large(stored[name]):
                axes[name] = _channel_axis(node)
    nodes = []
    for name, axis in sorted(axes.items()):
        rounded, scale = _rounded(numpy_helper.to_array(stored[name]), axis=axis)
        _replace_weight(graph, stored[name], {"quantized": rounded, "scale": scale.reshape(-1)})
        parts = [f"{name}_quantized", f"{name}_scale"]
        nodes.append(helper.make_node("DequantizeLinear", parts, [name], name=f"{name}_dequantized", axis=axis))
    _replace_nodes(graph, [*nodes, *graph.node])


def _channel_axis(node: onnx.NodeProto) -> int:
    # Source: ONNX operators; W and R of recurrent ones are (directions, gates * units, ...), W of Conv is (out, ...).
    if node.op_type == "Gemm":
        return 0 if any(attribute.name == "transB" and attribute.i for attribute in node.attribute) else 1
    return 0 if node.op_type == "Conv" else 1


def _is_large(tensor: onnx.TensorProto) -> bool:
    return bool(np.prod(tensor.dims) >= _LEAST_NUMBERS)


def _rounded(values: Array, *, axis: int) -> tuple[Array, Array]:
    """int8 values and their scales, one along an axis."""
    others = tuple(position for position in range(values.ndim) if position != axis)
    scale = np.abs(values).max(axis=others, keepdims=True) / np.float32(_LARGEST)
    return np.rint(values / np.where(scale > 0, scale, 1)).astype(np.int8), scale.astype(np.float32)


def _replace_weight(graph: onnx.GraphProto, tensor: onnx.TensorProto, parts: dict[str, Array]) -> None:
    name = tensor.name
    graph.initializer.remove(tensor)
    graph.initializer.extend(numpy_helper.from_array(value, f"{name}_{part}") for part, value in parts.items())


def _replace_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    nodes = list(nodes)
    del graph.node[:]
    graph.node.extend(nodes)


def _takes_rows(node: onnx.NodeProto, stored: dict[str, onnx.TensorProto]) -> bool:
    if node.op_type not in ("Gather", "Slice") or node.input[0] not in stored:
        return False
    table = stored[node.input[0]]
    if table.data_type != TensorProto.FLOAT or len(table.dims) != 2 or not _is_large(table):
        return False
    if node.op_type == "Gather":
        return next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 0) == 0
    axes = node.input[3] if len(node.input) > 3 else ""
    return axes in stored and numpy_helper.to_array(stored[axes]).tolist() == [0]


def _other_inputs(node: onnx.NodeProto, stored: dict[str, onnx.TensorProto]) -> Iterator[str]:
    yield from node.input[1:] if _takes_rows(node, stored) else node.input
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            for inner in attribute.g.node:
                # Inside another graph nothing is exchanged.
                yield from inner.input


def _dequantized(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    table, output = node.input[0], node.output[0]
    for part in ("quantized", "scale"):
        taken = onnx.NodeProto()
        taken.CopyFrom(node)
        taken.name, taken.input[0], taken.output[0] = f"{output}/{part}", f"{table}_{part}", f"{output}/{part}"
        yield taken
    whole = f"{output}/float32"
    yield helper.make_node("Cast", [f"{output}/quantized"], [whole], name=whole, to=TensorProto.FLOAT)
    yield helper.make_node("Mul", [whole, f"{output}/scale"], [output], name=output)
