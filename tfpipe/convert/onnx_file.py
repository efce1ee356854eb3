"""Model graphs as files. Beyond 2 GB, the most that one protobuf message holds, numbers lie in a file beside the graph.

ONNX calls that external data: `model.fp32.onnx` then names places in `model.fp32.onnx.data`, and is opened by its path.
"""

import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from tfpipe.core.errors import ConversionError
from tfpipe.core.signature import TensorSpec
from tfpipe.ort import OnnxModel, open_session

# Source: protobuf, "Size limits": a message is smaller than 2 GiB; the rest is for names, nodes and shapes.
MAX_MESSAGE_BYTES = (1 << 31) - (1 << 26)
# Shapes, axes and scalars are read by what checks a graph and infers types; larger tensors are not.
_LIGHT_BYTES = 1024


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
    data = _data_path(path)
    # The library appends to what is there.
    data.unlink(missing_ok=True)
    if stored_bytes(model) <= max_message_bytes:
        path.write_bytes(model.SerializeToString())
        return
    # The library's own function for a whole model empties the one that it is given.
    light = _without_tensors(model)
    for tensor in model.graph.initializer:
        is_light = _bytes(tensor) <= _LIGHT_BYTES
        light.graph.initializer.append(tensor if is_light else _external(tensor, data))
    path.write_bytes(light.SerializeToString())


def file_bytes(path: Path) -> int:
    """Size of a graph's file, with the one beside it that holds its numbers."""
    data = _data_path(path)
    return path.stat().st_size + (data.stat().st_size if data.exists() else 0)


def open_graph(
    model: onnx.ModelProto,
    *,
    threads: int | None = None,
    optimise: bool = True,
    disabled_optimizers: Sequence[str] = (),
    max_message_bytes: int = MAX_MESSAGE_BYTES,
) -> OnnxModel:
    """Open a graph of any size on the CPU, as the service would its file.

    Args:
        model: The graph.
        threads: See `open_session`.
        optimise: See `open_session`.
        disabled_optimizers: See `open_session`.
        max_message_bytes: See `save_model`.

    Raises:
        BundleError: ONNX Runtime cannot load it.
        OSError: It is large, and there is no room for a temporary file.
    """
    opened = partial(
        open_session, provider="cpu", threads=threads, optimise=optimise, disabled_optimizers=disabled_optimizers
    )
    if stored_bytes(model) <= max_message_bytes:
        return opened(model.SerializeToString())
    with tempfile.TemporaryDirectory(prefix="tfpipe-graph-") as folder:
        path = Path(folder) / "model.onnx"
        save_model(model, path, max_message_bytes=max_message_bytes)
        return opened(path)


def light_copy(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with its large tensors as inputs: small enough for native code that takes one message.

    What checks a graph, infers types or changes its operator set reads axes and shapes, and no larger numbers.
    """
    light = _without_tensors(model)
    given = {value.name for value in model.graph.input}
    for tensor in model.graph.initializer:
        if _bytes(tensor) <= _LIGHT_BYTES:
            light.graph.initializer.append(tensor)
        elif tensor.name not in given:
            light.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return light


def restore_tensors(light: onnx.ModelProto, model: onnx.ModelProto) -> None:
    """Put the tensors that `light_copy` left out of a model back into the copy, or what was made of it; in place."""
    given = {value.name for value in model.graph.input}
    inputs = [value for value in light.graph.input if value.name in given]
    del light.graph.input[:]
    light.graph.input.extend(inputs)
    light.graph.initializer.extend(tensor for tensor in model.graph.initializer if _bytes(tensor) > _LIGHT_BYTES)


def with_types(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of a graph of any size that says type and shape of each tensor, as far as they can be inferred.

    Raises:
        ConversionError: Types contradict each other.
    """
    try:
        inferred = onnx.shape_inference.infer_shapes(light_copy(model), strict_mode=True)
    except onnx.shape_inference.InferenceError as error:
        raise ConversionError(f"model: expected tensors whose types go together; {error}") from error
    restore_tensors(inferred, model)
    return inferred


def _without_tensors(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that never held the numbers, which may be most of the memory."""
    light = onnx.ModelProto()
    _copy_fields(model, light, leaving_out="graph")
    _copy_fields(model.graph, light.graph, leaving_out="initializer")
    return light


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
    """Append the numbers to a file; what is left of the tensor says where."""
    moved = numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name)
    external_data_helper.set_external_data(moved, location=data.name)
    external_data_helper.save_external_data(moved, str(data.parent))
    moved.ClearField("raw_data")
    return moved


def _bytes(tensor: TensorProto) -> int:
    return len(tensor.raw_data) or tensor.ByteSize()


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
