"""The JSON of an infer request: all of it, or what stands before the tensors' bytes.

Source: KServe, Open Inference Protocol v2, "Inference"; Triton, "Binary Tensor Data Extension".
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from serving.errors import InvalidRequestError
from serving.json_values import decode_base64, encode_text, flatten, name_of, numbers, read_object, shown
from serving.v2.datatypes import BYTES, DTYPES, check_datatype
from serving.v2.messages import (
    InferRequest,
    Tensor,
    WantedOutput,
    check_classes,
    check_count,
    check_request,
    check_shape,
    refuse_parameters,
    shaped,
)

# Clients repeat themselves: what stands before the bytes of a batch of one size is the same each time.
_MAX_REMEMBERED, _MAX_REMEMBERED_BYTES = 128, 2048
_NONE: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Promised:
    """A tensor whose bytes follow the JSON.

    Attributes:
        tensor: Its elements are still missing.
        num_bytes: Its length in the body.
        where: Its place and name, for messages.
    """

    tensor: Tensor
    num_bytes: int
    where: str


@dataclass(frozen=True, slots=True)
class Header:
    """What the JSON says.

    Attributes:
        request: Its tensors are those whose elements are in the JSON.
        entries: All tensors, in order.
        num_bytes: Length of those that follow.
    """

    request: InferRequest
    entries: tuple[Tensor | Promised, ...]
    num_bytes: int


def read_header(content: bytes) -> Header:
    """The JSON of a request; not to be changed, as it may be another's too.

    Raises:
        InvalidRequestError: It is not what the protocol says.
        TooLargeError: More arrays and objects than anyone needs.
    """
    return _remembered(content) if len(content) <= _MAX_REMEMBERED_BYTES else _read(content)


def _read(content: bytes) -> Header:
    header = read_object(content)
    given = header.get("inputs")
    if type(given) is not list:
        raise InvalidRequestError(f"inputs: expected an array of tensors, received {name_of(given)}.")
    entries = tuple(_entry(one, f"inputs[{index}]") for index, one in enumerate(given))
    parameters = _parameters(header, "parameters")
    name, outputs = header.get("id", ""), header.get("outputs")
    if type(name) is not str:
        raise InvalidRequestError(f"id: expected a string, received {name_of(name)}.")
    is_binary = _flag(parameters, "binary_data_output", "parameters")
    wanted = None if not outputs else _wanted(outputs, is_binary)
    tensors = [one.tensor if isinstance(one, Promised) else one for one in entries]
    request = check_request(InferRequest(tensors, name, wanted, is_binary, parameters=parameters))
    return Header(request, entries, sum(one.num_bytes for one in entries if isinstance(one, Promised)))


_remembered = lru_cache(_MAX_REMEMBERED)(_read)


def _entry(one: Any, where: str) -> Tensor | Promised:
    if type(one) is not dict:
        raise InvalidRequestError(f"{where}: expected an object, received {name_of(one)}.")
    name, shape = one.get("name"), one.get("shape")
    if type(name) is not str or not name:
        raise InvalidRequestError(f"{where}.name: expected a name, received {shown(name)}.")
    where = f"{where} {shown(name)}"
    if type(shape) is not list:
        raise InvalidRequestError(f"{where}: expected a shape, received {name_of(shape)}.")
    lengths = check_shape(shape, where)
    datatype = check_datatype(one.get("datatype"), where)
    parameters = _parameters(one, f"{where}: parameters")
    refuse_parameters(parameters, f"{where}: parameters")
    size = parameters.get("binary_data_size")
    if (size is None) != ("data" in one):
        received = "neither" if size is None else "both"
        raise InvalidRequestError(f"{where}: expected data or parameters.binary_data_size, received {received}.")
    if size is None:
        return _from_json(name, datatype, lengths, one["data"], parameters, where)
    if type(size) is not int or size < 0:
        raise InvalidRequestError(f"{where}: expected binary_data_size as a whole number, received {shown(size)}.")
    return Promised(Tensor(name, datatype, lengths, []), size, where)


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
