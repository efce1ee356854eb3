"""Datatypes of the Open Inference Protocol, and the bytes of tensors of strings.

Source: KServe, Open Inference Protocol v2, "Tensor Data Types"; Triton, "Binary Tensor Data Extension".
"""

import struct
from collections.abc import Iterable
from typing import Any

import numpy as np

from serving.errors import InvalidRequestError
from serving.json_values import shown
from tfpipe.core.signature import Array

BYTES = "BYTES"
# As they lie in memory on every machine that this runs on: little-endian.
DTYPES: dict[str, np.dtype] = {
    "BOOL": np.dtype("?"),
    **{f"UINT{bits}": np.dtype(f"<u{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"INT{bits}": np.dtype(f"<i{bits // 8}") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": np.dtype(f"<f{bits // 8}") for bits in (16, 32, 64)},
}
_DATATYPES = {dtype: name for name, dtype in DTYPES.items()}
_LENGTH = struct.Struct("<I")


def datatype_of(dtype: str | np.dtype) -> str:
    """The protocol's word for a NumPy dtype, e.g. "float32" -> "FP32"; strings are BYTES."""
    kind = np.dtype(dtype)
    return BYTES if kind.kind in "OSU" else _DATATYPES[kind]


def check_datatype(datatype: object, where: str) -> str:
    """The datatype, if it is one.

    Raises:
        InvalidRequestError: It is not one that the service takes.
    """
    if isinstance(datatype, str) and (datatype in DTYPES or datatype == BYTES):
        return datatype
    raise InvalidRequestError(
        f"{where}: expected a datatype of {', '.join([*DTYPES, BYTES])}, received {shown(datatype)}."
    )


def split_bytes(content: bytes | memoryview, where: str) -> list[bytes]:
    """The elements of a BYTES tensor: each is its length in four bytes, little-endian, then itself.

    Raises:
        InvalidRequestError: The last is not whole.
    """
    view, start, end = memoryview(content), 0, len(content)
    elements = []
    while start < end:
        if end - start < _LENGTH.size:
            raise InvalidRequestError(f"{where}: expected 4 bytes of length at byte {start}, received {end - start}.")
        (length,) = _LENGTH.unpack_from(view, start)
        start += _LENGTH.size
        if length > end - start:
            raise InvalidRequestError(
                f"{where}: expected an element of {length} bytes at byte {start}, received {end - start}."
            )
        elements.append(bytes(view[start : start + length]))
        start += length
    return elements


def join_bytes(elements: Iterable[bytes]) -> bytes:
    """Inverse of `split_bytes`."""
    return b"".join(part for element in elements for part in (_LENGTH.pack(len(element)), element))


def from_bytes(content: bytes | memoryview, dtype: np.dtype[Any], where: str) -> Array:
    """The elements in bytes, (elements,), without a copy.

    Raises:
        InvalidRequestError: The last is not whole, or a bool is neither 0 nor 1.
    """
    if dtype.kind != "b":
        if len(content) % dtype.itemsize:
            raise InvalidRequestError(f"{where}: expected whole elements of {dtype}, received {len(content)} bytes.")
        return np.frombuffer(content, dtype)
    values = np.frombuffer(content, np.uint8)
    if (values > 1).any():
        raise InvalidRequestError(f"{where}: expected BOOL as bytes 0 or 1, received {int(values.max())}.")
    return values.view(dtype)
