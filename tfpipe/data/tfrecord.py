"""The TFRecord file format: framing with checksums, and the few features of a tf.train.Example that are read here.

Free of TensorFlow, and an image's bytes are never touched while a file is indexed: opening a large data set costs its
record headers alone. Source: tensorflow/core/lib/io/record_writer.h, tensorflow/core/example/feature.proto, and the
Protocol Buffers encoding specification.
"""

import mmap
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import google_crc32c

from tfpipe.core.errors import DataError

_HEADER = struct.Struct("<QI")  # length of the data, masked CRC-32C of the length
_FOOTER = struct.Struct("<I")  # masked CRC-32C of the data
_MASK_DELTA = 0xA282EAD8

Buffer: TypeAlias = bytes | mmap.mmap


class Span(NamedTuple):
    """Bytes `start` to `stop` of a buffer."""

    start: int
    stop: int


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
    for features in _messages(buffer, record, 1):
        for entry in _messages(buffer, features, 1):
            key = next(_messages(buffer, entry, 1), Span(0, 0))
            name = buffer[key.start : key.stop].decode("utf-8", "replace")
            if name not in names:
                continue
            for value in _messages(buffer, entry, 2):
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
        _message(1, _message(1, name.encode()) + _message(2, _serialized_feature(features[name])))
        for name in sorted(features)
    )
    return _message(1, b"".join(entries))


def _serialized_feature(value: bytes | int | Sequence[bytes] | Sequence[int]) -> bytes:
    values = [value] if isinstance(value, bytes | int) else value
    strings = [item for item in values if isinstance(item, bytes)]
    if strings:
        return _message(1, b"".join(_message(1, item) for item in strings))
    integers = [item for item in values if isinstance(item, int)]
    return _message(3, _message(1, b"".join(_serialized_varint(item % (1 << 64)) for item in integers)))


def _message(number: int, content: bytes) -> bytes:
    return _serialized_varint(number << 3 | 2) + _serialized_varint(len(content)) + content


def _serialized_varint(value: int) -> bytes:
    digits = bytearray()
    while value >= 0x80:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*digits, value])


def _feature(buffer: Buffer, value: Span) -> Feature | None:
    for number, wire_type, content in _fields(buffer, value):
        if number == 1 and wire_type == 2:
            return list(_messages(buffer, content, 1))
        if number == 3 and wire_type == 2:
            return _integers(buffer, content)
    return None


def _integers(buffer: Buffer, span: Span) -> list[int]:
    values: list[int] = []
    for number, wire_type, content in _fields(buffer, span):
        if number != 1:
            continue
        # Packed (as TensorFlow writes it) or one by one; both are valid.
        position = content.start
        while position < content.stop:
            value, position = _varint(buffer, position, content.stop)
            values.append(value - (1 << 64) if value >> 63 else value)
        if wire_type not in (0, 2):
            raise ValueError(f"wire type {wire_type} in an integer list")
    return values


def _messages(buffer: Buffer, span: Span, wanted: int) -> Iterator[Span]:
    for number, wire_type, content in _fields(buffer, span):
        if number == wanted and wire_type == 2:
            yield content


def _fields(buffer: Buffer, span: Span) -> Iterator[tuple[int, int, Span]]:
    """(field number, wire type, where its value is) of each field of a message."""
    position = span.start
    while position < span.stop:
        tag, start = _varint(buffer, position, span.stop)
        wire_type = tag & 7
        if wire_type == 0:
            _, stop = _varint(buffer, start, span.stop)
        elif wire_type == 1:
            stop = start + 8
        elif wire_type == 2:
            length, start = _varint(buffer, start, span.stop)
            stop = start + length
        elif wire_type == 5:
            stop = start + 4
        else:
            raise ValueError(f"wire type {wire_type}")
        if stop > span.stop or tag >> 3 == 0:
            raise ValueError("a field that does not fit")
        yield tag >> 3, wire_type, Span(start, stop)
        position = stop


def _varint(buffer: Buffer, position: int, stop: int) -> tuple[int, int]:
    # Most are tags and lengths of one byte; opening a large data set spends its time here.
    if position < stop and (value := buffer[position]) < 0x80:
        return value, position + 1
    value = 0
    for shift in range(0, 70, 7):
        if position >= stop:
            break
        byte = buffer[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, position
    raise ValueError("an integer that does not end")
