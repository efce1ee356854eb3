"""The TFRecord file format: framing with checksums, and the few features of a tf.train.Example that are read here.

Free of TensorFlow, and an image's bytes are never touched while a file is indexed: opening a large data set costs its
record headers alone. Source: tensorflow/core/lib/io/record_writer.h, tensorflow/core/example/feature.proto, and the
Protocol Buffers encoding specification.
"""

import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import google_crc32c

from tfpipe.core.errors import DataError
from tfpipe.data.wire import Buffer, Span, fields, message, messages, read_varint, varint

_HEADER = struct.Struct("<QI")  # length of the data, masked CRC-32C of the length
_FOOTER = struct.Struct("<I")  # masked CRC-32C of the data
_MASK_DELTA = 0xA282EAD8


class Frame(NamedTuple):
    """One record of a file.

    Attributes:
        span: Where its data is.
        crc: The masked CRC-32C that the file has for the data.
    """

    span: Span
    crc: int


# What a Feature holds: where each byte string is, or the integers; floats are not read.
Feature: TypeAlias = list[Span] | list[int]


def masked_crc(data: bytes) -> int:
    """CRC-32C, rotated and shifted as TFRecord stores it."""
    crc: int = google_crc32c.value(data)
    return (((crc >> 15) | (crc << 17)) + _MASK_DELTA) & 0xFFFFFFFF


def frame(data: bytes) -> bytes:
    """A record's data with its header and footer, ready to be written."""
    length = struct.pack("<Q", len(data))
    return length + _FOOTER.pack(masked_crc(length)) + data + _FOOTER.pack(masked_crc(data))


def starts_with_frame(head: bytes) -> bool:
    """Whether a file that begins with these 12 bytes can be an uncompressed TFRecord file."""
    return len(head) >= _HEADER.size and _HEADER.unpack_from(head)[1] == masked_crc(head[:8])


def scan(buffer: Buffer, where: Path) -> Iterator[Frame]:
    """Walk over the records of a file, checking lengths but not data.

    Args:
        buffer: The whole file.
        where: Its name, for messages.

    Raises:
        DataError: Not a TFRecord file, or it ends within a record.
    """
    position, number, size = 0, 0, len(buffer)
    while position < size:
        head = bytes(buffer[position : position + _HEADER.size])
        if len(head) == _HEADER.size and not starts_with_frame(head):
            raise DataError(
                f"{where}, record {number} at byte {position}: expected a TFRecord header, received other bytes. "
                "The file is damaged or no TFRecord file."
            )
        start = position + _HEADER.size
        stop = start + _HEADER.unpack(head)[0] if len(head) == _HEADER.size else size + 1
        if stop + _FOOTER.size > size:
            raise DataError(
                f"{where}, record {number} at byte {position}: expected a whole record, received a file that ends "
                f"within it (at {size} bytes). Copy or pack it again."
            )
        yield Frame(Span(start, stop), _FOOTER.unpack(buffer[stop : stop + _FOOTER.size])[0])
        position, number = stop + _FOOTER.size, number + 1


def parse_example(buffer: Buffer, record: Span, names: frozenset[str]) -> dict[str, Feature]:
    """Find features of a serialized tf.train.Example.

    Args:
        buffer: Holds the record.
        record: Where it is.
        names: The features wanted.

    Returns:
        By name: for a bytes list where each string is, for an integer list its values; a float list is left out.

    Raises:
        ValueError: Not a serialized tf.train.Example.
    """
    found: dict[str, Feature] = {}
    for features in messages(buffer, record, 1):
        for entry in messages(buffer, features, 1):
            key = next(messages(buffer, entry, 1), Span(0, 0))
            name = buffer[key.start : key.stop].decode("utf-8", "replace")
            if name not in names:
                continue
            for value in messages(buffer, entry, 2):
                feature = _feature(buffer, value)
                if feature is not None:
                    found[name] = feature
    return found


def serialize_example(features: Mapping[str, bytes | int | Sequence[bytes] | Sequence[int]]) -> bytes:
    """A tf.train.Example; equal features give equal bytes.

    Args:
        features: By name; bytes make a bytes list, integers of at most 64 bits an integer list, of one value or, from
            a sequence, of several.
    """
    entries = (
        message(1, message(1, name.encode()) + message(2, _serialized_feature(features[name])))
        for name in sorted(features)
    )
    return message(1, b"".join(entries))


def _serialized_feature(value: bytes | int | Sequence[bytes] | Sequence[int]) -> bytes:
    values = [value] if isinstance(value, bytes | int) else value
    strings = [item for item in values if isinstance(item, bytes)]
    if strings:
        return message(1, b"".join(message(1, item) for item in strings))
    integers = [item for item in values if isinstance(item, int)]
    return message(3, message(1, b"".join(varint(item % (1 << 64)) for item in integers)))


def _feature(buffer: Buffer, value: Span) -> Feature | None:
    for number, wire_type, content in fields(buffer, value):
        if number == 1 and wire_type == 2:
            return list(messages(buffer, content, 1))
        if number == 3 and wire_type == 2:
            return _integers(buffer, content)
    return None


def _integers(buffer: Buffer, span: Span) -> list[int]:
    values: list[int] = []
    for number, wire_type, content in fields(buffer, span):
        if number != 1:
            continue
        # Packed (as TensorFlow writes it) or one by one; both are valid.
        position = content.start
        while position < content.stop:
            value, position = read_varint(buffer, position, content.stop)
            values.append(value - (1 << 64) if value >> 63 else value)
        if wire_type not in (0, 2):
            raise ValueError(f"wire type {wire_type} in an integer list")
    return values
