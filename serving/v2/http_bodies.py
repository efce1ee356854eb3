"""Bodies of /v2/models/{m}/infer: JSON, or JSON followed by the tensors' bytes.

Source: KServe, Open Inference Protocol v2, "Inference"; Triton, "Binary Tensor Data Extension".
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from serving.errors import InvalidRequestError, UndecodableTextError
from serving.json_values import write_object
from serving.v2.datatypes import BYTES, DTYPES
from serving.v2.json_header import Header, Promised, read_header
from serving.v2.messages import InferRequest, Tensor, bytes_of_tensor, shaped, tensor_of_bytes
from tfpipe.core.signature import Array, TensorSpec

HEADER_LENGTH = b"inference-header-content-length"


def bytes_to_read(headers: Mapping[bytes, bytes], body: bytes) -> int:
    """How many bytes of a body `read_infer` looks at one by one: numbers that are sent as bytes are taken as they are.

    Args:
        headers: See `read_infer`.
        body: Likewise.
    """
    given = headers.get(HEADER_LENGTH, b"")
    if not given.isdigit() or len(given) > len(str(len(body))):
        return len(body)
    length = int(given)
    # Elements of BYTES are cut out one by one; a backslash may hide the word.
    return len(body) if body.find(b"BYTES", 0, length) >= 0 or body.find(b"\\", 0, length) >= 0 else length


def read_infer(headers: Mapping[bytes, bytes], body: bytes, *, inputs: Sequence[TensorSpec]) -> InferRequest:
    """The request of a body.

    Args:
        headers: By lower-case name.
        body: Without its Content-Encoding. Tensors are views into it.
        inputs: The model's; a body without a header is the only one.

    Raises:
        InvalidRequestError: It is not what the protocol says.
        TooLargeError: More arrays and objects than anyone needs.
    """
    given = headers.get(HEADER_LENGTH)
    if given is None:
        return _with_bytes(read_header(body), memoryview(b""))
    if not given.isdigit() or len(given) > len(str(len(body))) or int(given) > len(body):
        raise InvalidRequestError(
            f"Inference-Header-Content-Length: expected 0 to {len(body)}, the length of the body, received {given!r}."
        )
    length = int(given)
    if length == 0:
        return _raw(body, inputs)
    view = memoryview(body)
    return _with_bytes(read_header(body[:length]), view[length:])


def write_infer(
    *, model_name: str, model_version: str | None, request: InferRequest, outputs: Sequence[Tensor]
) -> tuple[bytes, int | None]:
    """An answer's body, and the length of its JSON where bytes follow it.

    Args:
        model_name: The one that answered.
        model_version: Likewise; None for a model that is not registered.
        request: It says which outputs are wanted as bytes.
        outputs: In the order of the answer.

    Raises:
        UndecodableTextError: A BYTES output that is no UTF-8 is wanted as JSON.
    """
    binary = {output.name: output.is_binary for output in request.outputs or ()}
    entries, parts, floats = [], [], []
    for tensor in outputs:
        entry: dict[str, Any] = {"name": tensor.name, "datatype": tensor.datatype, "shape": tensor.shape}
        if binary.get(tensor.name, request.is_binary):
            part = bytes_of_tensor(tensor)
            entry["parameters"] = {"binary_data_size": len(part)}
            parts.append(part)
        else:
            entry["data"] = _to_json(tensor)
            if tensor.datatype.startswith("FP"):
                floats.append(entry["data"])
        entries.append(entry)
    content: dict[str, Any] = {"model_name": model_name, "outputs": entries}
    if model_version is not None:
        content["model_version"] = model_version
    if request.id:
        content["id"] = request.id
    if not parts:
        return write_object(content, floats), None
    header = write_object(content, floats)
    return b"".join((header, *parts)), len(header)


def _raw(body: bytes, inputs: Sequence[TensorSpec]) -> InferRequest:
    """A body that is the only input and nothing else; its outputs are wanted as bytes too."""
    if len(inputs) != 1:
        names = [spec.name for spec in inputs]
        raise InvalidRequestError(
            f"Inference-Header-Content-Length: expected the length of a JSON header, as the model has the inputs "
            f"{names}; received 0, which stands for a body that is the only one."
        )
    (spec,) = inputs
    if np.dtype(spec.dtype).kind in "OSU":
        return InferRequest([Tensor(spec.name, BYTES, (1,), [body])], is_binary=True)
    dtype = np.dtype(spec.dtype)
    free = [axis for axis, length in enumerate(spec.shape) if isinstance(length, str)]
    fixed = int(np.prod([length for length in spec.shape if not isinstance(length, str)])) * dtype.itemsize
    # The first free axis is the batch: one row, unless the rest is fixed and tells how many.
    unknown = free[1:] or free
    if len(unknown) > 1 or not fixed or len(body) % fixed:
        raise InvalidRequestError(
            f"body: expected the bytes of {spec.name!r}, {spec.dtype} of shape {list(spec.shape)} with one length "
            f"to be told from theirs, received {len(body)}."
        )
    shape = tuple(
        length if not isinstance(length, str) else len(body) // fixed if axis in unknown else 1
        for axis, length in enumerate(spec.shape)
    )
    rows = shaped(np.frombuffer(body, dtype), shape, "body")
    return InferRequest([_tensor_of(spec, rows)], is_binary=True)


def _tensor_of(spec: TensorSpec, array: Array) -> Tensor:
    datatype = next(name for name, dtype in DTYPES.items() if dtype == array.dtype)
    return Tensor(spec.name, datatype, array.shape, array)


def _with_bytes(header: Header, rest: memoryview) -> InferRequest:
    if header.num_bytes != len(rest):
        raise InvalidRequestError(
            f"body: expected {header.num_bytes} bytes after its JSON, the sum of binary_data_size, "
            f"received {len(rest)}."
        )
    tensors, start = [], 0
    for entry in header.entries:
        if isinstance(entry, Promised):
            end = start + entry.num_bytes
            promised = entry.tensor
            tensors.append(
                tensor_of_bytes(promised.name, promised.datatype, promised.shape, rest[start:end], entry.where)
            )
            start = end
        else:
            tensors.append(entry)
    asked = header.request
    return InferRequest(
        tensors, asked.id, asked.outputs, asked.is_binary, asked.timeout_s, asked.parameters, asked.routing_key
    )


def _to_json(tensor: Tensor) -> Any:
    """What can stand as `data`: flat, row by row."""
    if not isinstance(tensor.elements, list):
        return np.ascontiguousarray(tensor.elements).reshape(-1)
    try:
        return [element.decode() for element in tensor.elements]
    except UnicodeDecodeError as error:
        raise UndecodableTextError(
            f"outputs: expected {tensor.name!r} as UTF-8 text; {error.reason}. Ask for it with binary_data."
        ) from error
