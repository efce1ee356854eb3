"""FP16 with islands of float32, where values do not fit into half precision.

float16 holds magnitudes from 6.1e-5 (below that, ever fewer digits) to 65504. Which values a network has is measured
on calibration rows in float32; what then still answers too far from float32 is found by where the difference grows.

Answers on this machine alone would not show it: ONNX Runtime's CPU provider computes most float16 operators in float32,
where a GPU overflows.

Source: IEEE 754-2008, binary16.
"""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from tfpipe.convert.answers import Inputs, answers, assert_same_answers
from tfpipe.convert.half import to_float16
from tfpipe.convert.onnx_file import open_graph, types_of, without_tensors
from tfpipe.core.errors import BundleError, GateError
from tfpipe.core.parity import Bound
from tfpipe.core.signature import Array

logger = logging.getLogger(__name__)

# Rows that were not measured may be larger: two more bits are left for them.
_LARGEST = float(np.finfo(np.float16).max) / 4
_SMALLEST = float(np.finfo(np.float16).smallest_normal)
_FIRST_ISLANDS = 4


@dataclass(frozen=True)
class HalfResult:
    """A graph in half precision.

    Attributes:
        model: Float16 inside, float32 at its inputs and outputs.
        kept: The reason by name of each weight that stays float32.
        islands: The reason by name of each operator that computes in float32 because of its values.
    """

    model: onnx.ModelProto
    kept: dict[str, str]
    islands: dict[str, str]


def to_float16_within(model: onnx.ModelProto, inputs: Sequence[Inputs], bound: Bound) -> HalfResult:
    """Store weights, and compute, in float16, with as many operators left in float32 as the bound asks for.

    Operators whose values overflow, or are all too small, are left in float32 first. While the answers are beyond the
    bound, so are those that add most to the difference: twice as many each time, in the end all. Large weights within
    float16's range are stored as float16 all the same.

    Args:
        model: Float32 model graph; left as it is.
        inputs: Of the graph: calibration rows, a few to a batch, as all activations of one are held in memory.
        bound: How far answers may be from those in float32.

    Raises:
        ConversionError: The types of some tensors cannot be inferred.
    """
    references, largest = _observed(model, inputs)
    islands = _islands(model, largest)
    half, kept = to_float16(model, islands)
    failing = _first_beyond(half, inputs, references, bound)
    if failing is not None:
        ranked = _by_growth(model, half, failing)
        islands, half, kept = _extended(model, islands, ranked, inputs, references, bound)
    return HalfResult(half, kept, islands)


def find_islands(model: onnx.ModelProto, inputs: Sequence[Inputs]) -> dict[str, str]:
    """The reason, by the name of its first output, of each operator that takes or gives what float16 cannot hold.

    Args:
        model: Float32 model graph.
        inputs: See `to_float16_within`.
    """
    return _islands(model, _observed(model, inputs)[1])


def _islands(model: onnx.ModelProto, largest: Mapping[str, float]) -> dict[str, str]:
    islands = {}
    for node in model.graph.node:
        problems = [_problem(largest[name]) for name in (*node.input, *node.output) if name in largest]
        problem = next((problem for problem in problems if problem), None)
        if problem is not None:
            islands[node.output[0]] = problem
    return islands


def _problem(largest: float) -> str | None:
    # Also what is no number.
    if not largest <= _LARGEST:
        return f"values up to {largest:.3g}, and float16 ends at 65504"
    if 0 < largest < _SMALLEST:
        return f"values of {largest:.3g} at most, and float16 has all its digits from 6.1e-05 on"
    return None


def _observed(model: onnx.ModelProto, inputs: Sequence[Inputs]) -> tuple[list[dict[str, Array]], dict[str, float]]:
    """What a graph answers, and the largest absolute value of each float32 tensor inside it over all inputs."""
    typed = types_of(model)
    names, graph = _float_tensors(typed), typed.graph
    given, totals = [output.name for output in graph.output], dict.fromkeys(names, 0.0)
    nodes = list(graph.node)
    del graph.node[:]
    for node in nodes:
        graph.node.append(node)
        # Right behind it: else ONNX Runtime holds all tensors to the end, 2.4 GB for four rows of a BERT-base.
        for name in (name for name in node.output if name in totals):
            absolute, largest = f"{name}/absolute", f"{name}/largest"
            graph.node.append(helper.make_node("Abs", [name], [absolute]))
            graph.node.append(helper.make_node("ReduceMax", [absolute], [largest], keepdims=0))
            graph.output.append(helper.make_tensor_value_info(largest, TensorProto.FLOAT, ()))
    answered = []
    for outputs in answers(typed, inputs, tensors=model.graph.initializer, in_order=True):
        answered.append({name: outputs[name] for name in given})
        for name in names:
            totals[name] = float(np.maximum(totals[name], outputs[f"{name}/largest"]))
    return answered, totals


def _float_tensors(typed: onnx.ModelProto) -> list[str]:
    values = (*typed.graph.input, *typed.graph.output, *typed.graph.value_info)
    floats = {value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT}
    return [name for node in typed.graph.node for name in node.output if name in floats]


def _first_beyond(
    half: onnx.ModelProto, inputs: Sequence[Inputs], references: Sequence[Mapping[str, Array]], bound: Bound
) -> Inputs | None:
    """The first inputs whose answers are beyond the bound; the first of all where the graph does not load."""
    try:
        session = open_graph(half)
    # ONNX Runtime fuses some patterns across casts, and then refuses what it made.
    except BundleError:
        return inputs[0]
    for given, reference in zip(inputs, references, strict=True):
        try:
            assert_same_answers([session.run(given)], [reference], bound, where="fp16")
        except GateError:
            return given
    return None


def _by_growth(model: onnx.ModelProto, half: onnx.ModelProto, given: Inputs) -> list[tuple[str, str]]:
    """Operators with a reason each; first those whose output is further from float32's than what they take.

    Distances are largest differences, relative to the largest value of the tensor.
    """
    typed = types_of(model)
    inner = {name for node in half.graph.node for name in node.output}
    names = [name for name in _float_tensors(typed) if name in inner]
    exact, rounded = (_tensors(graph, names, given) for graph in (model, half))
    apart = {name: _relative_difference(rounded[name], exact[name]) for name in names}
    growth = {
        node.output[0]: apart[node.output[0]] - max((apart.get(name, 0.0) for name in node.input), default=0.0)
        for node in typed.graph.node
        if node.output[0] in apart
    }
    ranked = sorted(growth, key=lambda name: growth[name], reverse=True)
    return [(name, f"adds {growth[name]:.2g} to the relative difference from float32") for name in ranked]


def _tensors(model: onnx.ModelProto, names: Sequence[str], given: Inputs) -> dict[str, Array]:
    """Tensors inside a graph, in float64."""
    opened = without_tensors(model)
    known = {value.name for value in opened.graph.output}
    opened.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    (outputs,) = answers(opened, [given], tensors=model.graph.initializer, optimise=False)
    return {name: outputs[name].astype(np.float64) for name in names}


def _relative_difference(candidate: Array, reference: Array) -> float:
    difference = np.abs(candidate - reference).max(initial=0.0) / max(np.abs(reference).max(initial=0.0), _SMALLEST)
    # What is no number any more comes first.
    return float(difference) if np.isfinite(difference) else float(np.finfo(np.float64).max)


def _extended(
    model: onnx.ModelProto,
    islands: dict[str, str],
    ranked: Sequence[tuple[str, str]],
    inputs: Sequence[Inputs],
    references: Sequence[Mapping[str, Array]],
    bound: Bound,
) -> tuple[dict[str, str], onnx.ModelProto, dict[str, str]]:
    for count in _doubling(len(ranked)):
        more = dict(ranked[:count]) | islands
        half, kept = to_float16(model, more)
        logger.info("fp16: %d of %d operators in float32", len(more), len(model.graph.node))
        if _first_beyond(half, inputs, references, bound) is None:
            break
    return more, half, kept


def _doubling(most: int) -> Iterator[int]:
    count = _FIRST_ISLANDS
    while count < most:
        yield count
        count *= 2
    yield most
