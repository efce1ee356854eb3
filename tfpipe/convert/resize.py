"""tf.image.resize as ONNX nodes: handlers for the converter, each giving what TensorFlow gives.

The converter's own forms of bilinear and nearest leave the coordinates to ONNX's Resize, which divides by the rounded
scale where TensorFlow multiplies: up to 2e-4 apart on wide images, and for nearest another pixel altogether. These
compute the coordinates as TensorFlow's kernels do (half_pixel_centers, float32) and pick pixels with Gather, which is
bit-equal and cheaper. With antialias TensorFlow uses ScaleAndTranslate, which the converter lacks.

Source: tensorflow/core/kernels/image: image_resizer_state.h, resize_bilinear_op.cc, resize_nearest_neighbor_op.cc,
scale_and_translate_op.cc; ONNX operators, Resize-18.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto

from tfpipe.core.errors import ConversionError

# (graph, node, name, arguments): the converter's interface for operators of one's own.
Handler = Callable[[Any, Any, str, Sequence[Any]], None]

_KERNELS = {"triangle": "linear", "keyscubic": "cubic"}
# Resize has `antialias` since this operator set.
_ANTIALIAS_OPSET = 18
_TO_CHANNELS_FIRST, _TO_CHANNELS_LAST = [0, 3, 1, 2], [0, 2, 3, 1]
# (batch, height, width, channels) <-> (batch, width, channels, height). A column's numbers lie side by side, so that
# Gather copies each column as one piece; of images as they are it copies each pixel, which takes several times as long.
_TO_COLUMNS, _TO_ROWS = [0, 2, 3, 1], [0, 3, 1, 2]


class _Nodes:
    """Adds nodes named after the one that they stand for."""

    def __init__(self, graph: Any, name: str) -> None:
        self._graph, self._name, self._count = graph, name, 0

    def constant(self, value: Any, dtype: Any) -> str:
        return str(self._graph.make_const(self._next(), np.asarray(value, dtype)).output[0])

    def add(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        return str(self._graph.make_node(op_type, list(inputs), name=self._next(), attr=attributes).output[0])

    def length(self, images: str, axis: int) -> str:
        return self.add("Gather", self.add("Shape", images), self.constant(axis, np.int64), axis=0)

    def as_float(self, values: str) -> str:
        return self.add("Cast", values, to=TensorProto.FLOAT)

    def positions(self, length: str, size: int, *, offset: float) -> str:
        """(size,) float32: (i + 0.5) * length / size - offset."""
        steps = self.constant(np.arange(size, dtype=np.float32) + np.float32(0.5), np.float32)
        scale = self.add("Div", self.as_float(length), self.constant(size, np.float32))
        scaled = self.add("Mul", steps, scale)
        return self.add("Sub", scaled, self.constant(offset, np.float32)) if offset else scaled

    def index(self, values: str, length: str) -> str:
        """Whole float32 values as int64 within 0..length-1."""
        last = self.add("Sub", length, self.constant(1, np.int64))
        whole = self.add("Cast", values, to=TensorProto.INT64)
        return self.add("Max", self.add("Min", whole, last), self.constant(0, np.int64))

    def blend(self, low: str, high: str, weight: str) -> str:
        return self.add("Add", low, self.add("Mul", self.add("Sub", high, low), weight))

    def _next(self) -> str:
        self._count += 1
        return f"{self._name}/{self._count}"


def nearest(graph: Any, node: Any, name: str, _: Sequence[Any]) -> None:
    """ResizeNearestNeighbor: pixel floor((i + 0.5) * in / out)."""
    size, images = _prepare(node)
    nodes = _Nodes(graph, name)
    rows, columns = (
        nodes.index(nodes.add("Floor", nodes.positions(total, length, offset=0.0)), total)
        for total, length in zip((nodes.length(images, 1), nodes.length(images, 2)), size, strict=True)
    )
    picked = nodes.add("Transpose", nodes.add("Gather", images, rows, axis=1), perm=_TO_COLUMNS)
    picked = nodes.add("Transpose", nodes.add("Gather", picked, columns, axis=1), perm=_TO_ROWS)
    _replace(graph, node, "Cast", picked, to=TensorProto.FLOAT)


def bilinear(graph: Any, node: Any, name: str, _: Sequence[Any]) -> None:
    """ResizeBilinear: the four pixels around (i + 0.5) * in / out - 0.5, first along the width, then the height."""
    size, images = _prepare(node)
    _replace(graph, node, "Identity", _blended(_Nodes(graph, name), images, size))


def bilinear_if_needed(graph: Any, node: Any, name: str, _: Sequence[Any]) -> None:
    """Like `bilinear`, which leaves images as they are that have the size already: every weight is 0 then."""
    size, images = _prepare(node)
    nodes = _Nodes(graph, name)
    fits = [
        nodes.add("Equal", nodes.length(images, axis), nodes.constant(length, np.int64))
        for axis, length in zip((1, 2), size, strict=True)
    ]
    as_given, blended = _branch(graph), _branch(graph)
    unchanged = _Nodes(as_given, f"{name}/unchanged")
    # The shape says what the condition has found out; of the values before the cast, as it copies them.
    shape = unchanged.constant([0, *size, 0], np.int64)
    _give(as_given, unchanged.as_float(unchanged.add("Reshape", images, shape)), node)
    _give(blended, _blended(_Nodes(blended, f"{name}/blended"), images, size), node)
    branches = {"then_branch": as_given, "else_branch": blended}
    _replace(graph, node, "If", nodes.add("And", *fits), branches=branches)


def _blended(nodes: _Nodes, images: str, size: Sequence[int]) -> str:
    low, high, weight = {}, {}, {}
    for axis, length in zip((1, 2), size, strict=True):
        total = nodes.length(images, axis)
        position = nodes.positions(total, length, offset=0.5)
        below = nodes.add("Floor", position)
        low[axis] = nodes.index(below, total)
        high[axis] = nodes.index(nodes.add("Ceil", position), total)
        weight[axis] = nodes.add("Sub", position, below)
    across = nodes.add("Reshape", weight[2], nodes.constant([1, -1, 1, 1], np.int64))
    lines = []
    for rows in (low[1], high[1]):
        columns = nodes.add("Transpose", nodes.add("Gather", images, rows, axis=1), perm=_TO_COLUMNS)
        left, right = (nodes.as_float(nodes.add("Gather", columns, column, axis=1)) for column in (low[2], high[2]))
        lines.append(nodes.blend(left, right, across))
    return nodes.add("Transpose", nodes.blend(lines[0], lines[1], weight[1]), perm=_TO_ROWS)


def antialiased(graph: Any, node: Any, name: str, _: Sequence[Any]) -> None:
    """ScaleAndTranslate as tf.image.resize(antialias=True) emits it: scale out / in, no translation.

    Raises:
        ConversionError: Another kernel than those of bilinear and bicubic, or an operator set without the filter.
    """
    if graph.opset < _ANTIALIAS_OPSET:
        raise ConversionError(
            f"{name}: expected conversion.opset={_ANTIALIAS_OPSET}, which antialiased resizing needs, "
            f"received {graph.opset}."
        )
    kernel = node.get_attr_value("kernel_type")
    kernel = kernel.decode() if isinstance(kernel, bytes) else kernel
    if kernel not in _KERNELS:
        raise ConversionError(
            f"{name}: expected antialiased bilinear or bicubic resizing, received the kernel {kernel!r}, "
            "which has no ONNX equivalent."
        )
    nodes = _Nodes(graph, name)
    images, size = node.input[:2]
    images = nodes.add("Transpose", images, perm=_TO_CHANNELS_FIRST)
    outer = nodes.add("Slice", nodes.add("Shape", images), nodes.constant([0], np.int64), nodes.constant([2], np.int64))
    sizes = nodes.add("Concat", outer, nodes.add("Cast", size, to=TensorProto.INT64), axis=0)
    resized = nodes.add(
        "Resize", images, "", "", sizes, mode=_KERNELS[kernel], antialias=int(bool(node.get_attr_value("antialias"))),
        coordinate_transformation_mode="half_pixel", cubic_coeff_a=-0.5, exclude_outside=1,
    )  # fmt: skip
    _replace(graph, node, "Transpose", resized, perm=_TO_CHANNELS_LAST)


# For graphs whose images come in every size.
EXACT: dict[str, Handler] = {
    "ResizeNearestNeighbor": nearest,
    "ResizeBilinear": bilinear,
    "ScaleAndTranslate": antialiased,
}
# For the preprocessing graph, which runs on a CPU: on a device the condition would be waited for.
PREPROCESSING: dict[str, Handler] = {**EXACT, "ResizeBilinear": bilinear_if_needed}
# For networks that resize feature maps by whole factors: there ONNX's own Resize is right, and faster on a device.
ANTIALIASED: dict[str, Handler] = {"ScaleAndTranslate": antialiased}


def _prepare(node: Any) -> tuple[list[int], str]:
    """Target (height, width), and the images as they are before a cast to float32."""
    if not node.inputs[1].is_const() or not node.get_attr_value("half_pixel_centers"):
        raise ConversionError(
            f"{node.name}: expected resizing to a fixed size with half-pixel centres (tf.image.resize)."
        )
    source = node.inputs[0]
    # Picking pixels first leaves fewer to cast.
    images = source.input[0] if source.type == "Cast" else node.input[0]
    size = [int(length) for length in np.ravel(node.inputs[1].get_tensor_value(as_list=False))]
    return size, images


def _branch(graph: Any) -> Any:
    branch = graph.create_new_graph_with_same_config()
    branch.parent_graph = graph
    return branch


def _give(branch: Any, output: str, node: Any) -> None:
    """Let a branch give what stands for a node's output."""
    branch.add_graph_output(output, node.output_dtypes[0], node.output_shapes[0])


def _replace(
    graph: Any, node: Any, op_type: str, *inputs: str, branches: Mapping[str, Any] | None = None, **attributes: Any
) -> None:
    """Put a node in place of another, under its name, outputs, shapes and dtypes."""
    shapes, dtypes = node.output_shapes, node.output_dtypes
    graph.remove_node(node.name)
    graph.make_node(
        op_type, list(inputs), name=node.name, attr=attributes, outputs=node.output, shapes=shapes, dtypes=dtypes,
        branches=branches,
    )  # fmt: skip
