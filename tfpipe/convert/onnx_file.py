"""Model graphs as files. Beyond 2 GB, the most that one protobuf message holds, numbers lie in a file beside the graph.

ONNX calls that external data: `model.fp32.onnx` then names places in `model.fp32.onnx.data`, and is opened by its path.
"""

import math
import tempfile
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper, numpy_helper

from tfpipe.core.errors import BundleError, ConversionError
from tfpipe.core.signature import TensorSpec
from tfpipe.ort import OnnxModel, open_session

# Source: protobuf, "Size limits": a message is smaller than 2 GiB; the rest is for names, nodes and shapes.
MAX_MESSAGE_BYTES = (1 << 31) - (1 << 26)
# Shapes, axes and scalars are read by what checks a graph and infers types; larger tensors are not.
_LIGHT_BYTES = 1024
# NumPy has no smaller ones than of 8 bits.
_BITS = {TensorProto.INT4: 4, TensorProto.UINT4: 4, TensorProto.FLOAT4E2M1: 4}
# Of a message ONNX Runtime holds each weight three times while it opens it, and Python the message as long as the
# session lives; numbers in a file of their own it maps: 1.2 GB and 0.9 GB against 0.3 GB of a BERT-base.
_OPENED_AS_MESSAGE_BYTES = 1 << 25


def stored_bytes(model: onnx.ModelProto) -> int:
    """Bytes of all stored tensors of the outer graph, about the size of its file."""
    return sum(_bytes(tensor) for tensor in model.graph.initializer)


def save_model(model: onnx.ModelProto, path: Path, *, max_message_bytes: int = MAX_MESSAGE_BYTES) -> None:
    """Write a graph; with more numbers than one message holds, they go into `<path>.data` beside it.

    Args:
        model: Left as it is.
        path: Of the graph, in an existing folder.
        max_message_bytes: From how many bytes of stored tensors on they lie beside it.

    Raises:
        OSError: There is no room.
    """
    if stored_bytes(model) <= max_message_bytes:
        # What is there may be beside it.
        _data_path(path).unlink(missing_ok=True)
        path.write_bytes(model.SerializeToString())
    else:
        _save_beside(without_tensors(model), model.graph.initializer, path)


def _save_beside(graph: onnx.ModelProto, tensors: Iterable[TensorProto], path: Path) -> None:
    """Write a graph, to which tensors are added, with the numbers of large ones beside it."""
    data = _data_path(path)
    data.unlink(missing_ok=True)
    for tensor in tensors:
        graph.graph.initializer.append(tensor if _bytes(tensor) <= _LIGHT_BYTES else _external(tensor, data))
    path.write_bytes(graph.SerializeToString())


def file_bytes(path: Path) -> int:
    """Size of a graph's file, with the one beside it that holds its numbers."""
    data = _data_path(path)
    return path.stat().st_size + (data.stat().st_size if data.exists() else 0)


def open_graph(
    model: onnx.ModelProto,
    *,
    tensors: Iterable[TensorProto] = (),
    threads: int | None = None,
    optimise: bool = True,
    disabled_optimizers: Sequence[str] = (),
    in_order: bool = False,
    max_message_bytes: int = _OPENED_AS_MESSAGE_BYTES,
) -> OnnxModel:
    """Open a graph of any size on the CPU, as the service would its file.

    Args:
        model: The graph.
        tensors: What it stores beside its own.
        threads: See `open_session`.
        optimise: See `open_session`.
        disabled_optimizers: See `open_session`.
        in_order: See `open_session`.
        max_message_bytes: From how many bytes of stored tensors on it is opened by a temporary file.

    Raises:
        BundleError: ONNX Runtime cannot load it.
        OSError: It is large, and there is no room for a temporary file.
    """
    opened = partial(
        open_session,
        provider="cpu",
        threads=threads,
        optimise=optimise,
        disabled_optimizers=disabled_optimizers,
        in_order=in_order,
    )
    graph, stored = without_tensors(model), [*model.graph.initializer, *tensors]
    if sum(map(_bytes, stored)) <= max_message_bytes:
        graph.graph.initializer.extend(stored)
        return opened(graph.SerializeToString())
    with tempfile.TemporaryDirectory(prefix="tfpipe-graph-") as folder:
        path = Path(folder) / "model.onnx"
        _save_beside(graph, stored, path)
        try:
            return opened(path)
        except BundleError as error:
            # Nobody can look at the file.
            raise BundleError(str(error).replace(str(path), "the model")) from error


def light_copy(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with its large tensors as inputs: small enough for native code that takes one message.

    What checks a graph, infers types or changes its operator set reads axes and shapes, and no larger numbers.
    """
    light = without_tensors(model)
    given = {value.name for value in model.graph.input}
    for tensor in model.graph.initializer:
        if _bytes(tensor) <= _LIGHT_BYTES:
            light.graph.initializer.append(tensor)
        elif tensor.name not in given:
            light.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return light


def restore_tensors(light: onnx.ModelProto, model: onnx.ModelProto) -> None:
    """Put the tensors that `light_copy` left out of a model back into the copy, or what was made of it; in place."""
    _restore_inputs(light, model)
    light.graph.initializer.extend(tensor for tensor in model.graph.initializer if _bytes(tensor) > _LIGHT_BYTES)


def _restore_inputs(light: onnx.ModelProto, model: onnx.ModelProto) -> None:
    given = {value.name for value in model.graph.input}
    inputs = [value for value in light.graph.input if value.name in given]
    del light.graph.input[:]
    light.graph.input.extend(inputs)


def types_of(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a graph of any size, without its tensors, that says type and shape of all, as far as is inferred.

    Raises:
        ConversionError: Types contradict each other.
    """
    try:
        inferred = onnx.shape_inference.infer_shapes(light_copy(model), strict_mode=True)
    except onnx.shape_inference.InferenceError as error:
        raise ConversionError(f"model: expected tensors whose types go together; {error}") from error
    _restore_inputs(inferred, model)
    return without_tensors(inferred)


def without_tensors(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy without what the outer graph stores, which may be most of the memory."""
    light = onnx.ModelProto()
    _copy_fields(model, light, leaving_out="graph")
    _copy_fields(model.graph, light.graph, leaving_out="initializer")
    return light


def keep_tensors(graph: onnx.GraphProto, names: Collection[str]) -> None:
    """Take all but these out of the stored tensors of a graph; in place.

    One by one from the end: another list of those that stay would be another copy of their numbers.
    """
    for position in reversed(range(len(graph.initializer))):
        if graph.initializer[position].name not in names:
            del graph.initializer[position]


def _copy_fields(source: Any, target: Any, *, leaving_out: str) -> None:
    for field, value in source.ListFields():
        if field.name == leaving_out:
            continue
        if field.label == field.LABEL_REPEATED:
            getattr(target, field.name).MergeFrom(value)
        elif field.message_type is not None:
            getattr(target, field.name).CopyFrom(value)
        else:
            setattr(target, field.name, value)


def _external(tensor: TensorProto, data: Path) -> TensorProto:
    """Append the numbers to a file; what is returned says where. Texts stay in the graph."""
    if tensor.data_type == TensorProto.STRING:
        return tensor
    numbers = tensor.raw_data or numpy_helper.to_array(tensor).tobytes()
    with open(data, "ab") as file:
        place = {"location": data.name, "offset": str(file.tell()), "length": str(len(numbers))}
        file.write(numbers)
    moved = TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    moved.data_location = TensorProto.EXTERNAL
    moved.external_data.extend(onnx.StringStringEntryProto(key=key, value=value) for key, value in place.items())
    return moved


def _bytes(tensor: TensorProto) -> int:
    """Of the numbers, by their count: to ask the message for them would be to copy them."""
    if tensor.data_type == TensorProto.STRING:
        return int(tensor.ByteSize())
    bits = _BITS.get(tensor.data_type) or 8 * int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
    return (math.prod(map(int, tensor.dims)) * bits + 7) // 8


def _data_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.data")


def restore_header(rewritten: onnx.ModelProto, source: onnx.ModelProto) -> onnx.ModelProto:
    """Give a rewritten graph the names, axes and metadata of the one that it came from; in place.

    Of the operator sets it keeps those that are used: libraries write all that they know.
    """
    rewritten.producer_name, rewritten.producer_version = source.producer_name, source.producer_version
    rewritten.doc_string, rewritten.graph.doc_string = source.doc_string, source.graph.doc_string
    rewritten.graph.name = source.graph.name
    helper.set_model_props(rewritten, {entry.key: entry.value for entry in source.metadata_props})
    for values, originals in (
        (rewritten.graph.input, source.graph.input),
        (rewritten.graph.output, source.graph.output),
    ):
        for value, original in zip(values, originals, strict=True):
            value.CopyFrom(original)
    used = {"", *domains(rewritten)}
    versions = [entry for entry in rewritten.opset_import if entry.domain in used]
    del rewritten.opset_import[:]
    rewritten.opset_import.extend(versions)
    return rewritten


def header_of(model: onnx.ModelProto) -> onnx.ModelProto:
    """What `restore_header` takes of a model, without its nodes and numbers."""
    header = onnx.ModelProto()
    _copy_fields(model, header, leaving_out="graph")
    header.graph.name, header.graph.doc_string = model.graph.name, model.graph.doc_string
    header.graph.input.extend(model.graph.input)
    header.graph.output.extend(model.graph.output)
    return header


def input_specs(model: onnx.ModelProto) -> tuple[TensorSpec, ...]:
    """What a graph takes; axes without a name of their own are called "any"."""
    specs = []
    for value in model.graph.input:
        kind = value.type.tensor_type
        shape = tuple(dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "any" for dim in kind.shape.dim)
        specs.append(TensorSpec(value.name, helper.tensor_dtype_to_np_dtype(kind.elem_type).name, shape))
    return tuple(specs)


def domains(model: onnx.ModelProto) -> set[str]:
    """Of all operators, those of inner graphs included; "" is ONNX's own."""
    return {node.domain for node in all_nodes(model.graph)}


def all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Nodes of a graph and of the graphs that they hold."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from all_nodes(inner)
