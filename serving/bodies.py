"""Request bodies: read with limits, and taken apart."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.types import Receive

from serving.errors import BodyTimeoutError, ClientGoneError, InvalidRequestError, TooLargeError

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

# RFC 2046, section 5.1.1.
_MAX_BOUNDARY_BYTES = 70


@dataclass(frozen=True)
class Part:
    """One part of a multipart body.

    Attributes:
        name: Form field.
        content: As sent.
    """

    name: str
    content: bytes


class Body:
    """A body as it comes in.

    Attributes:
        size: Bytes received so far.
    """

    __slots__ = ("size",)

    def __init__(self) -> None:
        self.size = 0

    async def read(self, headers: Mapping[bytes, bytes], receive: Receive, *, max_bytes: int) -> bytes:
        """All of it, unless it is larger than is allowed.

        Args:
            headers: By lower-case name.
            receive: ASGI's.
            max_bytes: Largest body, told from Content-Length where there is one, else counted.

        Raises:
            TooLargeError: The body is larger; what is left of it is not read.
            ClientGoneError: The connection was closed before its end.
        """
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length) > max_bytes:
            raise _too_large(max_bytes)
        chunks: list[bytes] = []
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError("body: expected all of it, but the client closed the connection.")
            chunk = message.get("body", b"")
            self.size += len(chunk)
            if self.size > max_bytes:
                raise _too_large(max_bytes)
            chunks.append(chunk)
            more = message.get("more_body", False)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def late(self, timeout_s: float) -> BodyTimeoutError:
        """What to tell a client that took longer than so many seconds."""
        return BodyTimeoutError(
            f"body: expected all of it within {timeout_s:g} s, received {self.size} bytes.", received_bytes=self.size
        )


async def read_body(headers: Mapping[bytes, bytes], receive: Receive, *, max_bytes: int, timeout_s: float) -> bytes:
    """Read a whole body in time, where nothing else limits the time of its request.

    Args:
        headers: See `Body.read`, also for the next ones.
        receive: Likewise.
        max_bytes: Likewise.
        timeout_s: Longest time for all of it.

    Raises:
        BodyTimeoutError: It took longer.
        RequestError: See `Body.read`.
    """
    body = Body()
    try:
        async with asyncio.timeout(timeout_s):
            return await body.read(headers, receive, max_bytes=max_bytes)
    except TimeoutError:
        raise body.late(timeout_s) from None


def media_type(headers: Mapping[bytes, bytes]) -> str:
    """The media type of a body in lower case, without parameters; "" where none is said."""
    return headers.get(b"content-type", b"").split(b";", 1)[0].strip().lower().decode("latin-1")


def read_parts(content_type: bytes, body: bytes, *, max_parts: int) -> list[Part]:
    """Take a multipart/form-data body apart. Source: RFC 7578.

    Args:
        content_type: The header, with its boundary.
        body: The whole body.
        max_parts: Most parts.

    Raises:
        InvalidRequestError: No boundary, a malformed or unfinished body, or a part without a name.
        TooLargeError: More parts.
    """
    boundary = parse_options_header(content_type.decode("latin-1"))[1].get(b"boundary", b"")
    if not 0 < len(boundary) <= _MAX_BOUNDARY_BYTES:
        raise InvalidRequestError(
            "Content-Type: expected multipart/form-data with a boundary of 1 to 70 characters, "
            f"received {content_type.decode('latin-1')!r}. HTTP clients set it when they are given the files."
        )
    collector = _PartCollector(max_parts)
    try:
        MultipartParser(boundary, collector.callbacks()).write(body)
    except FormParserError as error:
        raise InvalidRequestError(f"body: expected multipart/form-data, received a malformed one ({error}).") from error
    if not collector.is_complete:
        raise InvalidRequestError(
            f"body: expected it to end with the boundary {boundary.decode('latin-1')!r}, but it ends before."
        )
    return collector.parts


class _PartCollector:
    """Gathers what the parser reports."""

    def __init__(self, max_parts: int) -> None:
        self.parts: list[Part] = []
        self.is_complete = False
        self._max_parts = max_parts
        self._headers: dict[bytes, bytes] = {}
        self._name, self._value, self._content = bytearray(), bytearray(), [b""]

    def callbacks(self) -> "MultipartCallbacks":
        return {
            "on_part_begin": self._begin,
            "on_header_field": lambda data, start, end: self._name.extend(data[start:end]),
            "on_header_value": lambda data, start, end: self._value.extend(data[start:end]),
            "on_header_end": self._end_header,
            "on_part_data": lambda data, start, end: self._content.append(data[start:end]),
            "on_part_end": self._end,
            "on_end": self._complete,
        }

    def _begin(self) -> None:
        if len(self.parts) == self._max_parts:
            raise TooLargeError(
                f"body: expected at most {self._max_parts} files, received more.", max_files=self._max_parts
            )
        self._headers, self._content = {}, []

    def _end_header(self) -> None:
        self._headers[bytes(self._name).lower()] = bytes(self._value)
        self._name.clear()
        self._value.clear()

    def _end(self) -> None:
        disposition = self._headers.get(b"content-disposition", b"").decode("latin-1")
        name = parse_options_header(disposition)[1].get(b"name")
        if name is None:
            raise InvalidRequestError("body: expected every part to name its field, received a part without a name.")
        content = self._content[0] if len(self._content) == 1 else b"".join(self._content)
        self.parts.append(Part(name.decode("utf-8", "replace"), content))

    def _complete(self) -> None:
        self.is_complete = True


def _too_large(max_bytes: int) -> TooLargeError:
    return TooLargeError(f"body: expected at most {max_bytes} bytes, received more.", max_bytes=max_bytes)
