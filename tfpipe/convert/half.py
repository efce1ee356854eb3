"""FP16: a model graph whose weights and activations are float16, with float32 inputs and outputs."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, helper, numpy_helper

from tfpipe.convert.onnx_file import types_of
from tfpipe.convert.rewrites.opset import opset_of
from tfpipe.core.errors import ConversionError

# Small probabilities vanish in half precision: below 6e-8 they are 0.
_ANSWERS = ("Softmax", "LogSoftmax")
# ONNX gives them a float16 form, ONNX Runtime's CPU provider none.
_RECURRENT = ("LSTM", "GRU", "RNN")
_LARGEST = float(np.finfo(np.float16).max)
_SMALLEST = float(np.finfo(np.float16).smallest_normal)
# Smaller weights of operators that compute in float32 are not worth a cast.
_LEAST_NUMBERS = 1024
_TYPES = {TensorProto.FLOAT: "float32", TensorProto.FLOAT16: "float16"}


def to_float16(
    model: onnx.ModelProto, islands: Mapping[str, str] = MappingProxyType({})
) -> tuple[onnx.ModelProto, dict[str, str]]:
    """Store weights, and compute, in float16.

    Computed in float32: the graph's inputs and outputs; Softmax; operators to which ONNX or ONNX Runtime gives no
    float16 form, or that hold graphs of their own, whose large weights are stored in float16 all the same; and those
    with a weight beyond float16's range at either end, which stays. What else is to be: `islands.to_float16_within`.

    Args:
        model: Float32 model graph; left as it is.
        islands: Nodes that compute in float32 too: the reason by the name of a node's first output.

    Returns:
        The new model, and the reason by name of each weight that stays float32.

    Raises:
        ConversionError: The types of some tensors cannot be inferred.
    """
    return _HalfPass(model, islands).run()


class _HalfPass:
    def __init__(self, model: onnx.ModelProto, islands: Mapping[str, str]) -> None:
        # It gets the weights once they are cast: protocol buffers give no memory back.
        self._model, self._tensors = types_of(model), model.graph.initializer
        self._islands, self._opset = islands, opset_of(model)
        graph = self._model.graph
        self._weights = {tensor.name: tensor for tensor in self._tensors if tensor.data_type == TensorProto.FLOAT}
        self._floats = {value.name for value in _values(graph) if value.type.tensor_type.elem_type == TensorProto.FLOAT}
        self._floats |= set(self._weights)
        problems = {name: _problem(tensor) for name, tensor in self._weights.items()}
        self._unfit = {name: problem for name, problem in problems.items() if problem}
        self._reasons = [self._reason(node) for node in graph.node]
        # What each tensor is stored as, and the casts made so far.
        self._stored = {value.name: TensorProto.FLOAT for value in graph.input if value.name in self._floats}
        self._casts: dict[tuple[str, int], str] = {}
        self._nodes: list[NodeProto] = []

    def run(self) -> tuple[onnx.ModelProto, dict[str, str]]:
        graph = self._model.graph
        self._check_types(graph)
        kept = self._store_weights(graph)
        for node, reason in zip(list(graph.node), self._reasons, strict=True):
            self._take(node, TensorProto.FLOAT16 if reason is None else TensorProto.FLOAT)
        for output in graph.output:
            self._give(output.name)
        del graph.node[:], graph.value_info[:]
        graph.node.extend(self._nodes)
        return self._model, kept

    def _reason(self, node: NodeProto) -> str | None:
        """Why a node computes in float32; None where it computes in float16."""
        if node.output[0] in self._islands:
            return self._islands[node.output[0]]
        if node.op_type in _ANSWERS:
            return f"{node.op_type} is computed in float32: small probabilities vanish in float16"
        if any(attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for attribute in node.attribute):
            return f"{node.op_type} holds a graph of its own"
        if not self._takes_half(node):
            return f"{node.op_type} takes no float16"
        if node.op_type in _RECURRENT:
            return f"ONNX Runtime computes {node.op_type} in float32 alone"
        return next((self._unfit[name] for name in node.input if name in self._unfit), None)

    def _takes_half(self, node: NodeProto) -> bool:
        schema = onnx.defs.get_schema(node.op_type, self._opset, node.domain)
        allowed = {constraint.type_param_str: constraint.allowed_type_strs for constraint in schema.type_constraints}
        formal = [
            (schema.inputs[min(position, len(schema.inputs) - 1)].type_str, name)
            for position, name in enumerate(node.input)
        ]
        formal += [
            (schema.outputs[min(i, len(schema.outputs) - 1)].type_str, name) for i, name in enumerate(node.output)
        ]
        return all("tensor(float16)" in allowed.get(kind, [kind]) for kind, name in formal if name in self._floats)

    def _check_types(self, graph: GraphProto) -> None:
        known = {value.name for value in _values(graph)} | {tensor.name for tensor in self._tensors}
        unknown = [name for node in graph.node for name in node.output if name and name not in known]
        if unknown:
            raise ConversionError(f"fp16: expected a type for every tensor, but that of {unknown[0]!r} is unknown.")

    def _store_weights(self, graph: GraphProto) -> dict[str, str]:
        """Store all tensors, cast where some float16 node takes them; returns the reasons of other float32 ones."""
        kept: dict[str, str] = {}
        users: dict[str, list[str | None]] = {name: [] for name in self._weights}
        for node, reason in zip(graph.node, self._reasons, strict=True):
            for name in users.keys() & set(_all_inputs(node)):
                users[name].append(reason)
        for tensor in self._tensors:
            name, reasons = tensor.name, users.get(tensor.name)
            if reasons is None:
                graph.initializer.append(tensor)
                continue
            is_large = np.prod(tensor.dims) >= _LEAST_NUMBERS and reasons and name not in self._unfit
            if None in reasons or is_large:
                half = numpy_helper.to_array(tensor).astype(np.float16)
                graph.initializer.append(numpy_helper.from_array(half, name))
                self._stored[name] = TensorProto.FLOAT16
            else:
                graph.initializer.append(tensor)
                self._stored[name] = TensorProto.FLOAT
                reason = self._unfit.get(name) or next((reason for reason in reasons if reason), None)
                kept[name] = reason or "no operator uses it"
        return kept

    def _take(self, node: NodeProto, wanted: int) -> None:
        """Append a node, with casts where it wants another precision than a tensor has."""
        renamed = {name: self._cast(name, wanted) for name in _all_inputs(node) if name in self._floats}
        _rename_inputs(node, renamed)
        if wanted == TensorProto.FLOAT16:
            _use_half_attributes(node)
        for name in node.output:
            if name in self._floats:
                self._stored[name] = wanted
        self._nodes.append(node)

    def _cast(self, name: str, wanted: int) -> str:
        if self._stored[name] == wanted:
            return name
        if (name, wanted) not in self._casts:
            cast = f"{name}/{_TYPES[wanted]}"
            self._nodes.append(helper.make_node("Cast", [name], [cast], name=cast, to=wanted))
            self._casts[name, wanted] = cast
        return self._casts[name, wanted]

    def _give(self, name: str) -> None:
        """Make a graph output float32 under its own name."""
        if self._stored.get(name) != TensorProto.FLOAT16:
            return
        inner = f"{name}/float16"
        for node in self._nodes:
            _rename_inputs(node, {name: inner})
            for position, output in enumerate(node.output):
                if output == name:
                    node.output[position] = inner
        self._nodes.append(helper.make_node("Cast", [inner], [name], name=f"{name}/float32", to=TensorProto.FLOAT))


def _problem(weight: TensorProto) -> str | None:
    """Why a weight cannot be stored in float16."""
    largest = float(np.abs(numpy_helper.to_array(weight)).max(initial=0.0))
    if not largest <= _LARGEST:
        return f"its largest value, {largest:g}, is beyond float16"
    # Such as the small number that keeps a division from one by 0: 1e-12 would become 0.
    if 0 < largest < _SMALLEST:
        return f"its largest value, {largest:g}, is too small for float16"
    return None


def _values(graph: GraphProto) -> Iterator[onnx.ValueInfoProto]:
    yield from graph.input
    yield from graph.output
    yield from graph.value_info


def _subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def _all_inputs(node: NodeProto) -> Iterator[str]:
    """Names that a node reads, those of the graphs that it holds included."""
    yield from node.input
    for graph in _subgraphs(node):
        for inner in graph.node:
            yield from _all_inputs(inner)


def _rename_inputs(node: NodeProto, names: dict[str, str]) -> None:
    for position, name in enumerate(node.input):
        node.input[position] = names.get(name, name)
    for graph in _subgraphs(node):
        for inner in graph.node:
            _rename_inputs(inner, names)


def _use_half_attributes(node: NodeProto) -> None:
    """Constants and casts inside a node follow its precision."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.TENSOR and attribute.t.data_type == TensorProto.FLOAT:
            attribute.t.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(attribute.t).astype(np.float16)))
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.FLOAT16
