"""JSON bodies to arrays and strings, and back, with limits; both foreign protocols share it.

Beyond the standard, the tokens NaN, Infinity and -Infinity are read and written, as both protocols' servers do.
"""

import base64
import binascii
import json
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any, TypeVar

import numpy as np
import orjson

from serving.errors import InvalidRequestError, TooLargeError
from tfpipe.core.signature import Array

# Each costs 56 bytes and more, sent as two: a body of nothing but brackets would take thirty times its size.
MAX_CONTAINERS = 2_000_000
# NumPy 1 has no array of more axes.
MAX_RANK = 32
_LONGEST_SHOWN = 100
_PIECE = 65_536
_NAMES = {dict: "an object", list: "an array", str: "a string", type(None): "null", bool: "true or false"}
_NUMBERS = frozenset({int, float})

T = TypeVar("T")


def read_object(body: bytes | memoryview) -> dict[str, Any]:
    """A JSON object, from UTF-8.

    Raises:
        InvalidRequestError: Something else.
        TooLargeError: More arrays and objects than anyone needs.
    """
    content = bytes(body)
    containers = content.count(b"[") + content.count(b"{")
    if containers > MAX_CONTAINERS:
        raise TooLargeError(
            f"body: expected at most {MAX_CONTAINERS} arrays and objects, received {containers}.",
            max_containers=MAX_CONTAINERS,
        )
    try:
        values = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        values = _with_special_numbers(content, error)
    if not isinstance(values, dict):
        raise InvalidRequestError(f"body: expected a JSON object, received {name_of(values)}.")
    return values


def write_object(content: dict[str, Any], arrays: list[Array]) -> bytes:
    """An object as JSON.

    Args:
        content: May hold arrays of numbers, in C order.
        arrays: Those of them that are of floats; where one is not finite, its special numbers become tokens.
    """
    if all(np.isfinite(array).all() for array in arrays):
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"), default=lambda value: value.tolist()).encode()


def name_of(value: Any) -> str:
    """What a JSON value is, for messages."""
    return _NAMES.get(type(value), "a number")


def shown(value: Any) -> str:
    """A JSON value in a message: short, whatever it is."""
    if isinstance(value, str | int | float):
        text = repr(value)
        return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}…"
    return name_of(value)


def flatten(values: list[Any], where: str) -> tuple[list[Any], tuple[int, ...]]:
    """Nested arrays -> what they hold, row by row, and their shape.

    Raises:
        InvalidRequestError: Arrays of unlike length beside each other, or nested too deep.
    """
    shape = [len(values)]
    while values and type(values[0]) is list:
        if len(shape) == MAX_RANK:
            raise InvalidRequestError(f"{where}: expected arrays nested at most {MAX_RANK} deep, received deeper ones.")
        if set(map(type, values)) != {list} or len(set(map(len, values))) != 1:
            raise InvalidRequestError(f"{where}: expected arrays of one length and depth, received a ragged one.")
        shape.append(len(values[0]))
        flat: list[Any] = []
        for piece in pieces(values):
            flat.extend(chain.from_iterable(piece))
        values = flat
    return values, tuple(shape)


def pieces(values: Sequence[T]) -> Iterator[Sequence[T]]:
    """Values in their order, some at a time.

    A call into C keeps the interpreter to itself until it ends: over millions of values that is seconds, in which no
    other request has its turn, whatever thread the call is in.
    """
    if len(values) <= _PIECE:
        yield values
        return
    for start in range(0, len(values), _PIECE):
        yield values[start : start + _PIECE]


def joined(values: Sequence[Any], dtype: str | np.dtype[Any] | None) -> Array:
    """(values,) of a dtype, in pieces.

    Raises:
        OverflowError: One is out of the dtype's range.
    """
    parts = [np.array(piece, dtype) for piece in pieces(values)]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def numbers(values: list[Any], dtype: np.dtype[Any], where: str) -> Array:
    """Flat JSON values -> (values,) of the dtype, none of them rounded to another whole number, clipped or wrapped.

    Args:
        values: Numbers; true and false for bool.
        dtype: bool, or any whole or floating type.
        where: What they are, for messages.

    Raises:
        InvalidRequestError: Another kind of value, or one out of the type's range.
    """
    kinds: set[type] = set()
    for piece in pieces(values):
        kinds.update(map(type, piece))
    is_bool, is_float = dtype.kind == "b", dtype.kind == "f"
    if not kinds <= (_NUMBERS if is_float else {bool} if is_bool else {int}):
        expected = "true or false" if is_bool else "numbers" if is_float else "whole numbers"
        wrong = next(value for value in values if not _is_right(value, is_bool=is_bool, is_float=is_float))
        raise InvalidRequestError(f"{where}: expected {expected}, received {shown(wrong)}.")
    try:
        wide = joined(values, _widest(dtype, values))
    except OverflowError:
        raise _out_of_range(dtype, where) from None
    if wide.dtype == dtype:
        return wide
    return _narrowed(wide, dtype, where)


def decode_base64(text: Any, where: str) -> bytes:
    """The bytes of a base64 string.

    Raises:
        InvalidRequestError: It is none.
    """
    if not isinstance(text, str):
        raise InvalidRequestError(f"{where}: expected a base64 string, received {name_of(text)}.")
    try:
        # The alphabet of RFC 4648, section 4, and nothing else: what is skipped would be lost silently.
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequestError(f"{where}: expected a base64 string; {error}.") from error


def encode_text(text: Any, where: str) -> bytes:
    """A JSON string as UTF-8.

    Raises:
        InvalidRequestError: No string, or half of a surrogate pair in it.
    """
    if not isinstance(text, str):
        raise InvalidRequestError(f"{where}: expected a string, received {name_of(text)}.")
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise InvalidRequestError(
            f"{where}: expected Unicode text; character {error.start} is a lone surrogate."
        ) from error


def _with_special_numbers(content: bytes, error: orjson.JSONDecodeError) -> Any:
    if b"NaN" not in content and b"Infinity" not in content:
        raise InvalidRequestError(f"body: expected JSON in UTF-8; {error}.") from error
    try:
        return json.loads(content.decode())
    except (ValueError, RecursionError) as other:
        raise InvalidRequestError(f"body: expected JSON in UTF-8; {other}.") from other


def _is_right(value: Any, *, is_bool: bool, is_float: bool) -> bool:
    return type(value) is bool if is_bool else type(value) is int or (is_float and type(value) is float)


def _narrowed(wide: Array, dtype: np.dtype[Any], where: str) -> Array:
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            narrow = wide.astype(dtype)
        fits = not (np.isinf(narrow) & np.isfinite(wide)).any()
    else:
        limits, narrow = np.iinfo(dtype), wide.astype(dtype)
        fits = wide.size == 0 or bool(limits.min <= wide.min() and wide.max() <= limits.max)
    if not fits:
        raise _out_of_range(dtype, where)
    return narrow


def _widest(dtype: np.dtype[Any], values: list[Any]) -> str:
    if dtype.kind in "bf":
        return "?" if dtype.kind == "b" else "f8"
    # NumPy 1 wraps what is below zero.
    is_positive = dtype == np.uint64 and all(min(piece, default=0) >= 0 for piece in pieces(values))
    return "u8" if is_positive else "i8"


def _out_of_range(dtype: np.dtype[Any], where: str) -> InvalidRequestError:
    return InvalidRequestError(f"{where}: expected numbers of {dtype}, received one out of its range.")
