"""Shapes that are known before a graph runs."""

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import TensorShapeProto, numpy_helper

from tfpipe.convert.onnx_file import light_copy
from tfpipe.convert.rewrites.dead import remove_dead
from tfpipe.convert.rewrites.index import GraphIndex


class SettleShapes:
    """Stores the target shape of a Reshape where one length at most is open; traces compute it with each run.

    What computed it is then gone, and what comes before and after stands together as rewrites look for it.
    """

    name = "settle_shapes"

    def __call__(self, model: onnx.ModelProto) -> onnx.ModelProto:
        """See `GraphPass`; in place."""
        index, shapes = GraphIndex(model), known_shapes(model)
        for node in model.graph.node:
            if node.op_type != "Reshape" or node.domain or index.constant(node.input[1]) is not None:
                continue
            # With allowzero a 0 does not keep an axis.
            if any(attribute.name == "allowzero" and attribute.i for attribute in node.attribute):
                continue
            target = _target(shapes.get(node.input[0]), shapes.get(node.output[0]))
            if target is not None:
                name = f"{node.output[0]}/shape"
                model.graph.initializer.append(numpy_helper.from_array(np.array(target, np.int64), name))
                node.input[1] = name
        remove_dead(model.graph)
        return model


def known_shapes(model: onnx.ModelProto) -> dict[str, TensorShapeProto]:
    """What is known of the shape of each tensor of the outer graph."""
    inferred = onnx.shape_inference.infer_shapes(light_copy(model), data_prop=True).graph
    values = (*inferred.input, *inferred.output, *inferred.value_info)
    return {value.name: value.type.tensor_type.shape for value in values if value.type.tensor_type.HasField("shape")}


def _target(given: TensorShapeProto | None, wanted: TensorShapeProto | None) -> list[int] | None:
    """Lengths as Reshape takes them: 0 keeps the axis at that place, -1 is what is left; None where more is open."""
    if wanted is None:
        return None
    target = list(_lengths(given, wanted))
    return target if target.count(-1) <= 1 else None


def _lengths(given: TensorShapeProto | None, wanted: TensorShapeProto) -> Iterator[int]:
    before = list(given.dim) if given is not None else []
    for position, dim in enumerate(wanted.dim):
        is_kept = position < len(before) and dim.dim_param and dim.dim_param == before[position].dim_param
        # A length of 0 would read as "keep".
        yield 0 if is_kept else dim.dim_value if dim.dim_value > 0 else -1
