"""Heads of requests bounded in time and size; uvicorn bounds neither, and a body is bounded where it is read."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

# Of all headers and the address together; what proxies allow is 8 to 64 KiB.
_MAX_HEAD_BYTES = 64 * 1024
_LATE = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


class BoundedHttp(HttpToolsProtocol):
    """Closes a connection that has not sent the head of a request in time, or one that is too large.

    A head that comes at once, as nearly all do, costs two assignments.

    Attributes:
        head_timeout_s: From the connection, or from a later request's first byte, to the end of its head.
    """

    head_timeout_s: float

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head, self._head_bytes = True, 0
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there; from now on it has so long."""
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(self.head_timeout_s, self._refuse, _LATE)

    def connection_lost(self, exc: Exception | None) -> None:
        """A client is gone."""
        self._stop()
        super().connection_lost(exc)

    def on_message_begin(self) -> None:
        """The first byte of a head."""
        self._in_head, self._head_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The last byte of a head."""
        self._in_head = False
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        """Some bytes."""
        super().data_received(data)
        if not self._in_head:
            if self._head_timer is not None:
                self._stop()
            return
        self._head_bytes += len(data)
        if self._head_bytes > _MAX_HEAD_BYTES:
            self._refuse(_LARGE)
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(self.head_timeout_s, self._refuse, _LATE)

    def _stop(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, answer: bytes) -> None:
        self._stop()
        if not self.transport.is_closing():
            # To a connection on which nothing was ever said there is nothing to answer.
            if self._head_bytes:
                self.transport.write(answer)
            self.transport.close()


def bounded_http(head_timeout_s: float) -> type[BoundedHttp]:
    """The protocol with its time, as uvicorn makes its instances itself."""
    return type("BoundedHttp", (BoundedHttp,), {"head_timeout_s": head_timeout_s})
