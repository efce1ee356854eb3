"""Bodies of /v2/models/{m}/infer: JSON, or JSON followed by the tensors' bytes.

Source: KServe, Open Inference Protocol v2, "Inference"; Triton, "Binary Tensor Data Extension".
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from serving.errors import InvalidRequestError, UndecodableTextError
from serving.json_values import decode_base64, encode_text, flatten, name_of, numbers, read_object, shown, write_object
from serving.v2.datatypes import BYTES, DTYPES, check_datatype, join_bytes, split_bytes
from serving.v2.messages import (
    InferRequest,
    Tensor,
    WantedOutput,
    check_count,
    check_request,
    check_shape,
    refuse_parameters,
    shaped,
)
from tfpipe.core.signature import Array, TensorSpec

HEADER_LENGTH = b"inference-header-content-length"
_NONE: Mapping[str, Any] = {}


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
        return _from_header(read_object(body), memoryview(b""))
    if not given.isdigit() or len(given) > len(str(len(body))) or int(given) > len(body):
        raise InvalidRequestError(
            f"Inference-Header-Content-Length: expected 0 to {len(body)}, the length of the body, received {given!r}."
        )
    length = int(given)
    if length == 0:
        return _raw(body, inputs)
    view = memoryview(body)
    return _from_header(read_object(view[:length]), view[length:])


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
            part = _to_bytes(tensor)
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
    from_bytes = shaped(np.frombuffer(body, dtype), shape, "body")
    return InferRequest([_tensor_of(spec, from_bytes)], is_binary=True)


def _tensor_of(spec: TensorSpec, array: Array) -> Tensor:
    datatype = next(name for name, dtype in DTYPES.items() if dtype == array.dtype)
    return Tensor(spec.name, datatype, array.shape, array)


def _from_header(header: Mapping[str, Any], rest: memoryview) -> InferRequest:
    given = header.get("inputs")
    if type(given) is not list:
        raise InvalidRequestError(f"inputs: expected an array of tensors, received {name_of(given)}.")
    tensors, start = [], 0
    for index, one in enumerate(given):
        tensor, size = _read_tensor(one, f"inputs[{index}]", rest[start:])
        tensors.append(tensor)
        start += size
    if start != len(rest):
        raise InvalidRequestError(
            f"body: expected {start} bytes after its header, the sum of binary_data_size, received {len(rest)}."
        )
    parameters = _parameters(header, "parameters")
    name, outputs = header.get("id", ""), header.get("outputs")
    if type(name) is not str:
        raise InvalidRequestError(f"id: expected a string, received {name_of(name)}.")
    is_binary = _flag(parameters, "binary_data_output", "parameters")
    wanted = None if not outputs else _wanted(outputs, is_binary)
    return check_request(InferRequest(tensors, name, wanted, is_binary, parameters=parameters))


def _read_tensor(one: Any, where: str, rest: memoryview) -> tuple[Tensor, int]:
    """A tensor, and how many bytes of the rest were its."""
    if type(one) is not dict:
        raise InvalidRequestError(f"{where}: expected an object, received {name_of(one)}.")
    name, shape = one.get("name"), one.get("shape")
    if type(name) is not str or not name:
        raise InvalidRequestError(f"{where}.name: expected a name, received {shown(name)}.")
    where = f"{where} {name!r}"
    if type(shape) is not list:
        raise InvalidRequestError(f"{where}: expected a shape, received {name_of(shape)}.")
    lengths = check_shape(shape, where)
    datatype = check_datatype(one.get("datatype"), where)
    parameters = _parameters(one, f"{where}: parameters")
    if parameters:
        refuse_parameters(parameters, f"{where}: parameters")
        size = parameters.get("binary_data_size")
        if size is not None:
            if "data" in one:
                raise InvalidRequestError(f"{where}: expected data or binary_data_size, received both.")
            return _from_bytes(name, datatype, lengths, size, rest, where), size
    if "data" not in one:
        raise InvalidRequestError(f"{where}: expected data or parameters.binary_data_size, received neither.")
    return _from_json(name, datatype, lengths, one["data"], parameters, where), 0


def _from_bytes(name: str, datatype: str, shape: tuple[int, ...], size: object, rest: memoryview, where: str) -> Tensor:
    if type(size) is not int or not 0 <= size <= len(rest):
        raise InvalidRequestError(
            f"{where}: expected binary_data_size of 0 to {len(rest)}, the bytes that are left, received {shown(size)}."
        )
    if datatype == BYTES:
        elements = split_bytes(rest[:size], where)
        check_count(shape, len(elements), where)
        return Tensor(name, datatype, shape, elements)
    dtype = DTYPES[datatype]
    if size % dtype.itemsize:
        raise InvalidRequestError(f"{where}: expected whole elements of {datatype}, received {size} bytes.")
    return Tensor(name, datatype, shape, shaped(array_of(rest[:size], dtype, where), shape, where))


def array_of(content: bytes | memoryview, dtype: np.dtype[Any], where: str) -> Array:
    """The elements in bytes, (elements,), without a copy.

    Raises:
        InvalidRequestError: A bool that is neither 0 nor 1.
    """
    if dtype.kind != "b":
        return np.frombuffer(content, dtype)
    values = np.frombuffer(content, np.uint8)
    if (values > 1).any():
        raise InvalidRequestError(f"{where}: expected BOOL as bytes 0 or 1, received {int(values.max())}.")
    return values.view(dtype)


def _from_json(
    name: str, datatype: str, shape: tuple[int, ...], data: Any, parameters: Mapping[str, Any], where: str
) -> Tensor:
    if type(data) is not list:
        raise InvalidRequestError(f"{where}: expected data as an array, received {name_of(data)}.")
    flat, nested = flatten(data, where)
    if len(nested) > 1 and nested != shape:
        raise InvalidRequestError(f"{where}: expected data of shape {list(shape)} or flat, received {list(nested)}.")
    check_count(shape, len(flat), where)
    if datatype == BYTES:
        return Tensor(name, datatype, shape, _elements(flat, parameters.get("content_type"), where))
    return Tensor(name, datatype, shape, shaped(numbers(flat, DTYPES[datatype], where), shape, where))


def _elements(flat: list[Any], content_type: object, where: str) -> list[bytes]:
    if content_type not in (None, "base64", "str"):
        raise InvalidRequestError(f"{where}: expected content_type base64 or none, received {shown(content_type)}.")
    read = decode_base64 if content_type == "base64" else encode_text
    return [read(one, f"{where}: data[{index}]") for index, one in enumerate(flat)]


def _wanted(outputs: Any, is_binary: bool) -> list[WantedOutput]:
    if type(outputs) is not list:
        raise InvalidRequestError(f"outputs: expected an array, received {name_of(outputs)}.")
    wanted = []
    for index, one in enumerate(outputs):
        where = f"outputs[{index}]"
        if type(one) is not dict or type(one.get("name")) is not str:
            raise InvalidRequestError(f"{where}: expected an object with a name, received {shown(one)}.")
        parameters = _parameters(one, f"{where}.parameters")
        refuse_parameters(parameters, f"{where}.parameters")
        classes = parameters.get("classification", 0)
        binary = _flag(parameters, "binary_data", f"{where}.parameters") if "binary_data" in parameters else is_binary
        wanted.append(WantedOutput(one["name"], binary, check_classes(classes, where)))
    return wanted


def check_classes(classes: object, where: str) -> int:
    """The parameter `classification`, if it is one.

    Raises:
        InvalidRequestError: No whole number of at least 0.
    """
    if type(classes) is not int or classes < 0:
        raise InvalidRequestError(f"{where}: expected classification as a whole number, received {shown(classes)}.")
    return classes


def _parameters(of: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    parameters = of.get("parameters")
    if parameters is None:
        return _NONE
    if type(parameters) is not dict:
        raise InvalidRequestError(f"{where}: expected an object, received {name_of(parameters)}.")
    return parameters


def _flag(parameters: Mapping[str, Any], name: str, where: str) -> bool:
    value = parameters.get(name, False)
    if type(value) is not bool:
        raise InvalidRequestError(f"{where}.{name}: expected true or false, received {shown(value)}.")
    return value


def _to_bytes(tensor: Tensor) -> bytes:
    if isinstance(tensor.elements, list):
        return join_bytes(tensor.elements)
    return tensor.elements.astype(DTYPES[tensor.datatype], copy=False).tobytes()


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
