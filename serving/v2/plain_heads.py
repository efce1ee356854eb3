"""Heads of plain infer requests: what they say is known from the second time on.

Plain is what holds nothing that would change the way to an answer.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import httptools

from serving.request import given_id
from serving.v2.http_bodies import HEADER_LENGTH
from serving.wanted import Wanted

_END_OF_HEAD = b"\r\n\r\n"
_REQUEST_ID = b"x-request-id"
# Those that are heeded here, and those of clients and proxies that nobody heeds.
_PLAIN_HEADERS = frozenset((
    b"content-length", b"connection", b"authorization", b"x-api-key", b"accept-encoding", _REQUEST_ID, HEADER_LENGTH,
    b"host", b"content-type", b"user-agent", b"accept", b"accept-language", b"traceparent", b"tracestate", b"via",
    b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-port", b"x-forwarded-proto", b"x-real-ip",
))  # fmt: skip
_MOST_HEADS, _MOST_HEAD_BYTES = 256, 1024
# Neither escapes nor a query.
_PLAIN_PATH = re.compile(rb"/v2/models/([\w.-]+)(?:/versions/([\w.-]+))?/infer")


@dataclass(slots=True)
class Head:
    """What a head says.

    Attributes:
        path: As it was sent.
        headers: By lower-case name.
        wanted: The model that is asked.
        num_bytes: Of the whole request.
        start: Where its body begins.
        json_end: Where the tensors' bytes begin; None where all of the body is JSON.
        id: Which the client gave the request, if it did.
    """

    path: str
    headers: Mapping[bytes, bytes]
    wanted: Wanted
    num_bytes: int
    start: int
    json_end: int | None
    id: str | None


class Heads:
    """Reads heads, and remembers them.

    Args:
        max_body_bytes: What announces a larger body is not plain.
    """

    def __init__(self, *, max_body_bytes: int) -> None:
        self._max_body_bytes = max_body_bytes
        # None: a head that is known not to be plain.
        self._known: dict[bytes, Head | None] = {}

    def read(self, data: bytes) -> Head | None:
        """The head that bytes begin with; None where it is not plain, or not there as a whole.

        Args:
            data: What came first on a connection, or after a request.
        """
        start = data.find(_END_OF_HEAD, 0, _MOST_HEAD_BYTES) + len(_END_OF_HEAD)
        if start < len(_END_OF_HEAD):
            return None
        text = data[:start]
        return self._known[text] if text in self._known else self._learn(text)

    def _learn(self, text: bytes) -> Head | None:
        head = _parsed(text, max_body_bytes=self._max_body_bytes)
        if head is not None and head.id is not None:
            # It will not come again, and others do.
            return head
        if len(self._known) == _MOST_HEADS:
            # Whoever sends another head each time gains nothing by it, and must not cost memory.
            self._known.clear()
        self._known[text] = head
        return head


def _parsed(text: bytes, *, max_body_bytes: int) -> Head | None:
    """A head of a plain request; None of any other, an invalid one included."""
    head = _HeadParser()
    parser = httptools.HttpRequestParser(head)
    try:
        parser.feed_data(text)
    except httptools.HttpParserError:
        return None
    headers = dict(head.headers)
    is_plain = (
        parser.get_method() == b"POST"
        and parser.get_http_version() == "1.1"
        and parser.should_keep_alive()
        and headers.keys() <= _PLAIN_HEADERS
        and len(headers) == len(head.headers)
        and (_REQUEST_ID not in headers or given_id(headers) is not None)
    )
    wanted = _wanted(head.url) if is_plain else None
    length, json_length = headers.get(b"content-length", b""), headers.get(HEADER_LENGTH)
    if wanted is None or not length.isdigit() or not 0 < int(length) <= max_body_bytes:
        return None
    json_end = None
    if json_length is not None:
        if not json_length.isdigit() or not 0 < int(json_length) < int(length):
            return None
        json_end = len(text) + int(json_length)
    num_bytes = len(text) + int(length)
    return Head(head.url.decode(), headers, wanted, num_bytes, len(text), json_end, given_id(headers))


class _HeadParser:
    """Gathers what httptools reports."""

    def __init__(self) -> None:
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))


def _wanted(url: bytes) -> Wanted | None:
    found = _PLAIN_PATH.fullmatch(url)
    if found is None:
        return None
    name, version = found.groups()
    return Wanted(name.decode(), None if version is None else version.decode())
