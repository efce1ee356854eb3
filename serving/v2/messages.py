"""A request and an answer of the Open Inference Protocol as HTTP and gRPC both bring them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from serving.errors import InvalidRequestError
from serving.json_values import shown
from serving.parameters import ROUTING_KEY, key_of_body
from serving.v2.datatypes import BYTES, DTYPES, from_bytes, join_bytes, split_bytes
from tfpipe.core.signature import Array

Elements: TypeAlias = Array | list[bytes]

_LONGEST = 2**63 - 1
# What would change the answer and is not there; unknown parameters are the client's own affair, as in Triton.
_NOT_THERE = {
    "sequence_id": "models keep no state between requests",
    "shared_memory_region": "tensors travel in the body",
}


@dataclass(slots=True)
class Tensor:
    """A named tensor.

    Attributes:
        name: Of an input or output.
        datatype: See `serving.v2.datatypes`.
        shape: One length an axis.
        elements: Of `shape`, perhaps read-only; of BYTES a flat list, row by row.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    elements: Elements


@dataclass(slots=True)
class WantedOutput:
    """An output that a request names.

    Attributes:
        name: Its name.
        is_binary: Whether it is wanted as bytes; over HTTP only.
        classes: Whether, and of how many, the best classes are wanted in its place; 0: the tensor itself.
    """

    name: str
    is_binary: bool = False
    classes: int = 0


@dataclass(slots=True)
class InferRequest:
    """What a client asks.

    Attributes:
        tensors: In the order of the request; no name twice.
        id: To be given back; "" for none.
        outputs: Those wanted; None: all.
        is_binary: Whether outputs are wanted as bytes where `outputs` does not say.
        timeout_s: Longest wait; None for the service's own.
        parameters: All of the request's.
        routing_key: See `serving.parameters`; None for none.
    """

    tensors: list[Tensor]
    id: str = ""
    outputs: list[WantedOutput] | None = None
    is_binary: bool = False
    timeout_s: float | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    routing_key: str | None = None


def check_shape(shape: Sequence[object], where: str) -> tuple[int, ...]:
    """A shape, if it is one.

    Raises:
        InvalidRequestError: An axis is no whole number of at least 0.
    """
    for length in shape:
        # Not isinstance: true is an int to Python.
        if type(length) is not int or not 0 <= length <= _LONGEST:
            raise InvalidRequestError(f"{where}: expected a shape of whole numbers, received {shown(length)} in it.")
    return tuple(shape)  # type: ignore[arg-type]


def check_count(tensor_shape: tuple[int, ...], received: int, where: str) -> None:
    """Refuse another number of elements than the shape says.

    Raises:
        InvalidRequestError: It is another.
    """
    if received != math.prod(tensor_shape):
        raise InvalidRequestError(
            f"{where}: expected {math.prod(tensor_shape)} elements of shape {list(tensor_shape)}, received {received}."
        )


def shaped(array: Array, shape: tuple[int, ...], where: str) -> Array:
    """A flat array in its shape, without a copy.

    Raises:
        InvalidRequestError: Another number of elements, or a shape that no array has.
    """
    check_count(shape, array.size, where)
    try:
        return array.reshape(shape)
    except ValueError as error:
        raise InvalidRequestError(f"{where}: expected a shape that an array can have; {error}.") from error


def tensor_of_bytes(
    name: str, datatype: str, shape: tuple[int, ...], content: bytes | memoryview, where: str
) -> Tensor:
    """A tensor from its bytes, of which it is a view where its datatype is no BYTES.

    Raises:
        InvalidRequestError: Not whole elements, or another number of them than the shape says.
    """
    if datatype == BYTES:
        elements = split_bytes(content, where)
        check_count(shape, len(elements), where)
        return Tensor(name, BYTES, shape, elements)
    return Tensor(name, datatype, shape, shaped(from_bytes(content, DTYPES[datatype], where), shape, where))


def bytes_of_tensor(tensor: Tensor) -> bytes:
    """Inverse of `tensor_of_bytes`."""
    if isinstance(tensor.elements, list):
        return join_bytes(tensor.elements)
    return tensor.elements.astype(DTYPES[tensor.datatype], copy=False).tobytes()


def check_classes(classes: object, where: str) -> int:
    """The parameter `classification`, if it is one.

    Raises:
        InvalidRequestError: No whole number of at least 0.
    """
    if type(classes) is not int or classes < 0:
        raise InvalidRequestError(f"{where}: expected classification as a whole number, received {shown(classes)}.")
    return classes


def check_request(request: InferRequest) -> InferRequest:
    """What no field can say alone: names once, parameters that are kept.

    Raises:
        InvalidRequestError: A name twice, or a parameter that cannot be kept.
    """
    names = [tensor.name for tensor in request.tensors]
    if not names:
        raise InvalidRequestError("inputs: expected at least one tensor, received none.")
    wanted = [output.name for output in request.outputs or ()]
    for kind, given in (("inputs", names), ("outputs", wanted)):
        if len(given) != len(set(given)):
            twice = next(name for name in given if given.count(name) > 1)
            raise InvalidRequestError(f"{kind}: expected each name once, received {twice!r} more often.")
    if request.parameters:
        refuse_parameters(request.parameters, "parameters")
        request.timeout_s = _timeout_s(request.parameters.get("timeout"))
        request.routing_key = key_of_body(request.parameters.get(ROUTING_KEY), f"parameters.{ROUTING_KEY}")
    return request


def refuse_parameters(parameters: Mapping[str, Any], where: str) -> None:
    """Refuse parameters that would change the answer, and cannot be kept.

    Raises:
        InvalidRequestError: One is there.
    """
    for name, why in _NOT_THERE.items():
        if parameters.get(name):
            raise InvalidRequestError(f"{where}.{name}: expected none, as {why}; received {shown(parameters[name])}.")


def _timeout_s(timeout: Any) -> float | None:
    # 0 is what clients send for none.
    if timeout is None or (type(timeout) is int and timeout == 0):
        return None
    if type(timeout) is not int or not 0 <= timeout <= _LONGEST:
        raise InvalidRequestError(f"parameters.timeout: expected whole microseconds, received {shown(timeout)}.")
    return timeout / 1e6
