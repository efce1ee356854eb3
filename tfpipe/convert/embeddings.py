"""Embeddings stored as INT8: one scale for each row of a table, so that rare words lose nothing to common ones."""

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

# Smaller tables are not worth the operators.
_LEAST_NUMBERS = 1024
_LARGEST = 127


def quantize_embeddings(model: onnx.ModelProto) -> None:
    """Store tables that rows are taken from as int8 with a float32 scale for each row; in place.

    A row is round(values / scale) with scale = max|values| / 127, and is multiplied again after it was taken: the
    same for each token, whatever its neighbours.
    """
    graph = model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    # A table that something else reads whole, such as an output layer that shares it, stays as it is.
    tables = {node.input[0] for node in graph.node if _takes_rows(node, stored)}
    tables -= {name for node in graph.node for name in _other_inputs(node, stored)}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        nodes.extend(_dequantized(node) if node.input[:1] and node.input[0] in tables else [node])
    del graph.node[:]
    graph.node.extend(nodes)
    for name in sorted(tables):
        values = numpy_helper.to_array(stored[name])
        scale = np.abs(values).max(axis=1, keepdims=True) / np.float32(_LARGEST)
        rounded = np.rint(values / np.where(scale > 0, scale, 1)).astype(np.int8)
        graph.initializer.remove(stored[name])
        graph.initializer.append(numpy_helper.from_array(rounded, f"{name}_quantized"))
        graph.initializer.append(numpy_helper.from_array(scale.astype(np.float32), f"{name}_scale"))


def _takes_rows(node: onnx.NodeProto, stored: dict[str, onnx.TensorProto]) -> bool:
    if node.op_type not in ("Gather", "Slice") or node.input[0] not in stored:
        return False
    table = stored[node.input[0]]
    if table.data_type != TensorProto.FLOAT or len(table.dims) != 2 or np.prod(table.dims) < _LEAST_NUMBERS:
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
