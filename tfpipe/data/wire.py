"""The Protocol Buffers encoding, as far as TensorFlow's files need it: fields read in place, messages written.

Free of protobuf's own library, whose versions TensorFlow and other servers want to be different ones, and of generated
classes. Source: Protocol Buffers documentation, Encoding.
"""

import mmap
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

Buffer: TypeAlias = bytes | mmap.mmap


class Span(NamedTuple):
    """Bytes `start` to `stop` of a buffer."""

    start: int
    stop: int


def message(number: int, content: bytes) -> bytes:
    """A field that holds bytes, a string or a message."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def integer(number: int, value: int) -> bytes:
    """A field that holds an integer of at most 64 bits, or a value of an enumeration."""
    return varint(number << 3) + varint(value % (1 << 64))


def varint(value: int) -> bytes:
    """A whole number, not negative, seven bits a byte."""
    digits = bytearray()
    while value >= 0x80:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*digits, value])


def messages(buffer: Buffer, span: Span, wanted: int) -> Iterator[Span]:
    """Where the bytes, strings or messages of a field are."""
    for number, wire_type, content in fields(buffer, span):
        if number == wanted and wire_type == 2:
            yield content


def fields(buffer: Buffer, span: Span) -> Iterator[tuple[int, int, Span]]:
    """(field number, wire type, where its value is) of each field of a message.

    Raises:
        ValueError: Not a serialized message.
    """
    position = span.start
    while position < span.stop:
        tag, start = read_varint(buffer, position, span.stop)
        wire_type = tag & 7
        if wire_type == 0:
            _, stop = read_varint(buffer, start, span.stop)
        elif wire_type == 1:
            stop = start + 8
        elif wire_type == 2:
            length, start = read_varint(buffer, start, span.stop)
            stop = start + length
        elif wire_type == 5:
            stop = start + 4
        else:
            raise ValueError(f"wire type {wire_type}")
        if stop > span.stop or tag >> 3 == 0:
            raise ValueError("a field that does not fit")
        yield tag >> 3, wire_type, Span(start, stop)
        position = stop


def read_varint(buffer: Buffer, position: int, stop: int) -> tuple[int, int]:
    """A whole number, and where it ends.

    Raises:
        ValueError: It does not end before `stop`.
    """
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
