"""Which operators lose most by INT8: each block alone is rounded, and the change of the model's answers is measured.

One session of the float32 graph does it all. Before each operator that a recipe computes in INT8 its inputs are rounded
where a switch of the block says so; weights are inputs with a default, so that a rounded one can be fed in its place.
A block is a product or convolution with a stored weight and the operators behind it, up to the next one: kept in
float32 alone, an operator whose neighbours are not gains little.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tqdm import tqdm

from tfpipe.convert.quantize import Feed, Quantizer, quantized_nodes
from tfpipe.convert.recipe import Recipe
from tfpipe.core.signature import Array
from tfpipe.ort import open_session

# Operators that multiply by their second input, and the axis of its output channels.
_CHANNELS = {"Conv": 0, "ConvTranspose": 1, "MatMul": -1, "Gemm": -1}
_ROWS = 8


@dataclass(frozen=True)
class Block:
    """Operators that are rounded, or kept in float32, together.

    Attributes:
        nodes: Names; the first multiplies by a stored weight.
        damage: Root mean square of what the answers change by when this block alone is in INT8.
    """

    nodes: tuple[str, ...]
    damage: float = 0.0


def worst_blocks(quantizer: Quantizer, recipe: Recipe, *, is_over: Callable[[], bool] = lambda: False) -> list[Block]:
    """Blocks that a recipe computes in INT8, those that lose most first.

    Args:
        quantizer: Its first calibration rows are what is measured on.
        recipe: A static one.
        is_over: Whether time is up: the blocks that are left are then not measured, and left out.

    Raises:
        ConversionError: The graph cannot be quantised.
        BundleError: Its measuring form cannot be run.
    """
    model = quantizer.prepared()
    blocks = find_blocks(model, quantized_nodes(model, recipe))
    weights = _overridable_weights(model, blocks)
    _insert_switches(model, blocks, _limits(quantizer.ranges(recipe)))
    session = open_session(model.SerializeToString(), provider="cpu", optimise=False)
    feeds = _some_rows(quantizer.batches)
    reference = [session.run(feed) for feed in feeds]
    measured = []
    for number, block in enumerate(tqdm(blocks, desc="sensitivity", unit=" blocks", leave=False, disable=None)):
        if is_over():
            break
        rounded = {name: _rounded(value, axis, recipe) for name, (value, axis) in weights.get(number, {}).items()}
        switched = {_switch(number): np.array(True), **rounded}
        answers = [session.run({**feed, **switched}) for feed in feeds]
        measured.append(Block(block.nodes, _distance(answers, reference)))
    return sorted(measured, key=lambda block: block.damage, reverse=True)


def find_blocks(model: onnx.ModelProto, quantized: Sequence[str]) -> list[Block]:
    """Cut the operators that are computed in INT8 into blocks, in the order of the graph.

    Operators before the first product or convolution belong to it.
    """
    stored, wanted = {tensor.name for tensor in model.graph.initializer}, set(quantized)
    blocks: list[list[str]] = []
    leading: list[str] = []
    for node in model.graph.node:
        if node.name not in wanted:
            continue
        if node.op_type in _CHANNELS and node.input[1] in stored:
            blocks.append([node.name, *leading])
            leading = []
        else:
            (blocks[-1] if blocks else leading).append(node.name)
    return [Block(tuple(names)) for names in blocks]


def _overridable_weights(model: onnx.ModelProto, blocks: Sequence[Block]) -> dict[int, dict[str, tuple[Array, int]]]:
    """Make the blocks' weights inputs with a default; gives them and the axes of their channels by block."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = {node.name: node for node in model.graph.node}
    found: dict[int, dict[str, tuple[Array, int]]] = {}
    declared = {value.name for value in model.graph.input}
    for number, block in enumerate(blocks):
        node = nodes[block.nodes[0]]
        name = node.input[1]
        found[number] = {name: (numpy_helper.to_array(stored[name]), _channel_axis(node))}
        if name not in declared:
            declared.add(name)
            tensor = stored[name]
            model.graph.input.append(helper.make_tensor_value_info(name, tensor.data_type, list(tensor.dims)))
    return found


def _channel_axis(node: onnx.NodeProto) -> int:
    is_transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return 0 if is_transposed else _CHANNELS[node.op_type]


def _insert_switches(
    model: onnx.ModelProto, blocks: Sequence[Block], limits: Mapping[str, tuple[float, float]]
) -> None:
    """Have the nodes of each block read rounded inputs where its switch is on."""
    of_node = {name: number for number, block in enumerate(blocks) for name in block.nodes}
    nodes: list[onnx.NodeProto] = []
    made: set[str] = set()
    for node in list(model.graph.node):
        number = of_node.get(node.name)
        for position, name in enumerate(node.input):
            if number is None or name not in limits:
                continue
            switched = f"{name}/{number}"
            if switched not in made:
                made.add(switched)
                nodes += _switched(model, name, switched, _switch(number), *limits[name])
            node.input[position] = switched
        nodes.append(node)
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    for number in range(len(blocks)):
        model.graph.initializer.append(numpy_helper.from_array(np.array(False), _switch(number)))
        model.graph.input.append(helper.make_tensor_value_info(_switch(number), TensorProto.BOOL, []))


def _switched(
    model: onnx.ModelProto, name: str, switched: str, switch: str, low: float, high: float
) -> list[onnx.NodeProto]:
    scale = np.float32(max(high - low, 1e-12) / 255)
    parts = {f"{switched}/scale": scale, f"{switched}/zero_point": np.uint8(np.clip(np.rint(-low / scale), 0, 255))}
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(value), key) for key, value in parts.items())
    coarse, back = f"{switched}/uint8", f"{switched}/rounded"
    return [
        helper.make_node("QuantizeLinear", [name, *parts], [coarse]),
        helper.make_node("DequantizeLinear", [coarse, *parts], [back]),
        helper.make_node("Where", [switch, back, name], [switched]),
    ]


def _switch(number: int) -> str:
    return f"tfpipe/switch/{number}"


def _limits(ranges: Any) -> dict[str, tuple[float, float]]:
    """(lowest, highest) by tensor, 0 included, which must be one of the values that INT8 holds."""
    found = {}
    for name, data in ranges.items():
        low, high = data.range_value
        found[name] = min(float(np.min(low)), 0.0), max(float(np.max(high)), 0.0)
    return found


def _rounded(weight: Array, axis: int, recipe: Recipe) -> Array:
    largest = np.float32(63 if recipe.reduce_range else 127)
    channel = axis % weight.ndim
    others = tuple(position for position in range(weight.ndim) if position != channel or not recipe.per_channel)
    scale = np.abs(weight).max(axis=others, keepdims=True) / largest
    scale = np.where(scale > 0, scale, 1).astype(np.float32)
    return np.asarray(np.rint(weight / scale) * scale, np.float32)


def _some_rows(batches: Sequence[Feed]) -> list[Feed]:
    """The first batches, of so many rows together."""
    taken: list[Feed] = []
    count = 0
    for feed in batches:
        if count >= _ROWS:
            break
        taken.append(feed)
        count += len(next(iter(feed.values())))
    return taken


def _distance(answers: Sequence[Mapping[str, Array]], reference: Sequence[Mapping[str, Array]]) -> float:
    squares = [
        np.mean(np.square(received[name].astype(np.float64) - expected[name]))
        for received, expected in zip(answers, reference, strict=True)
        for name in expected
        if np.issubdtype(expected[name].dtype, np.floating)
    ]
    distance = float(np.sqrt(np.mean(squares))) if squares else 0.0
    # What is not a number is the worst there is.
    return distance if np.isfinite(distance) else float("inf")
