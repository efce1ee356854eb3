"""GELU as one operator, or as the five that are recognised."""

import itertools
import math
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import helper, numpy_helper

from tfpipe.convert.rewrites.dead import remove_dead
from tfpipe.convert.rewrites.index import GraphIndex
from tfpipe.convert.rewrites.opset import opset_of

# Since when ONNX has it.
_GELU_OPSET = 20
_NUMBERS = {"root": math.sqrt(2), "one": 1.0, "half": 0.5}


class FuseGelu:
    """Makes one Gelu of x * (1 + erf(x / sqrt(2))) / 2 in any order of its factors.

    Before operator set 20, which has it, the five operators stay, in the order that providers look for and fuse.

    Source: Hendrycks and Gimpel 2016, arXiv:1606.08415, section 2; ONNX operators, Gelu-20.
    """

    name = "fuse_gelu"

    def __call__(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """See `GraphPass`; in place."""
        index, has_gelu = GraphIndex(model), opset_of(model) >= _GELU_OPSET
        nodes: list[onnx.NodeProto] = []
        for node in model.graph.node:
            x = _gelu_input(index, node)
            if x is None or (not has_gelu and _is_recognised(index, node, x)):
                nodes.append(node)
            elif has_gelu:
                nodes.append(helper.make_node("Gelu", [x], [node.output[0]], name=node.output[0]))
            else:
                nodes.extend(_recognised(model.graph, x, node.output[0]))
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        remove_dead(model.graph)
        return model


def _gelu_input(index: GraphIndex, last: onnx.NodeProto) -> str | None:
    """The x of a GELU whose last product is this node; None where it is none."""
    if last.op_type != "Mul" or last.domain:
        return None
    for product, factor in itertools.permutations(last.input):
        inner = index.producer(product, "Mul")
        if inner is not None:
            for half, total, x in itertools.permutations((*inner.input, factor)):
                if index.is_number(half, 0.5) and _error_input(index, total) == x:
                    return str(x)
    return None


def _error_input(index: GraphIndex, name: str) -> str | None:
    """The x of 1 + erf(x / sqrt(2))."""
    total = index.producer(name, "Add")
    for one, term in itertools.permutations(total.input) if total is not None else ():
        error = index.producer(term, "Erf")
        if error is not None and index.is_number(one, 1.0):
            return _scaled_input(index, error.input[0])
    return None


def _scaled_input(index: GraphIndex, name: str) -> str | None:
    """The x of x / sqrt(2)."""
    quotient, product = index.producer(name, "Div"), index.producer(name, "Mul")
    if quotient is not None and index.is_number(quotient.input[1], math.sqrt(2)):
        return str(quotient.input[0])
    for factor, x in itertools.permutations(product.input) if product is not None else ():
        if index.is_number(factor, math.sqrt(0.5)):
            return str(x)
    return None


def _is_recognised(index: GraphIndex, last: onnx.NodeProto, x: str) -> bool:
    """Whether it is (x * (erf(x / sqrt(2)) + 1)) * 0.5 already."""
    inner = index.producer(last.input[0], "Mul")
    total = None if inner is None or inner.input[0] != x else index.producer(inner.input[1], "Add")
    error = None if total is None else index.producer(total.input[0], "Erf")
    return error is not None and index.producer(error.input[0], "Div") is not None


def _recognised(graph: onnx.GraphProto, x: str, output: str) -> Iterator[onnx.NodeProto]:
    # Source: ONNX Runtime, gelu_fusion.cc, subgraph pattern 1.
    root, one, half = (_stored(graph, f"gelu/{name}", number) for name, number in _NUMBERS.items())
    scaled, error, total, product = (f"{output}/{name}" for name in ("scaled", "error", "total", "product"))
    for op_type, inputs, result in (
        ("Div", [x, root], scaled),
        ("Erf", [scaled], error),
        ("Add", [error, one], total),
        ("Mul", [x, total], product),
        ("Mul", [product, half], output),
    ):
        yield helper.make_node(op_type, inputs, [result], name=result)


def _stored(graph: onnx.GraphProto, name: str, number: float) -> str:
    """A scalar of the graph, the same for each GELU."""
    if not any(tensor.name == name for tensor in graph.initializer):
        graph.initializer.append(numpy_helper.from_array(np.float32(number).reshape(()), name))
    return name
