"""Stored tensors of a graph."""

import hashlib

import onnx
from onnx import numpy_helper

from tfpipe.convert.onnx_file import all_nodes, keep_tensors

# Smaller ones save nothing, and lose the name of their layer.
_LEAST_BYTES = 1024


class MergeWeights:
    """Stores equal large tensors once: a layer that shares its weights may be traced with copies of them."""

    name = "merge_weights"

    def __call__(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """See `GraphPass`; in place."""
        graph = model.graph
        first: dict[tuple[int, tuple[int, ...], bytes], str] = {}
        renamed: dict[str, str] = {}
        given = {value.name for value in (*graph.input, *graph.output)}
        for tensor in graph.initializer:
            if tensor.name not in given and tensor.ByteSize() >= _LEAST_BYTES:
                kept = first.setdefault(_key(tensor), tensor.name)
                if kept != tensor.name:
                    renamed[tensor.name] = kept
        # An inner graph may have a tensor of its own of the same name; it is seldom worth telling them apart.
        inner = {name for node in graph.node for name in _inner_names(node)}
        renamed = {name: kept for name, kept in renamed.items() if name not in inner}
        for node in graph.node:
            for position, name in enumerate(node.input):
                node.input[position] = renamed.get(name, name)
        keep_tensors(graph, {tensor.name for tensor in graph.initializer} - renamed.keys())
        return model


def _key(tensor: onnx.TensorProto) -> tuple[int, tuple[int, ...], bytes]:
    content = numpy_helper.to_array(tensor).tobytes()
    return tensor.data_type, tuple(tensor.dims), hashlib.sha256(content).digest()


def _inner_names(node: onnx.NodeProto) -> set[str]:
    graphs = [graph for attribute in node.attribute for graph in (attribute.g, *attribute.graphs)]
    return {name for graph in graphs for inner in all_nodes(graph) for name in inner.input}
