"""uvicorn's HTTP, with heads of requests bounded in time and size, and a shorter way for answers that are whole.

uvicorn bounds no heads; a body is bounded where it is read.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

# Of all headers and the address together; what proxies allow is 8 to 64 KiB.
_MAX_HEAD_BYTES = 64 * 1024
_LATE = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"

_EXTENSION = "tfpipe.whole_answer"

WriteWhole: TypeAlias = Callable[[int, Sequence[tuple[bytes, bytes]], bytes], bool]
"""Status, headers, Content-Length among them, and body -> whether they were written; if not, ASGI's way is open."""


def whole_of(scope: Scope) -> WriteWhole | None:
    """What writes an answer at once; None on another server than ours."""
    extensions = scope.get("extensions")
    return extensions.get(_EXTENSION) if extensions else None


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

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        # An extension of ASGI's scope.
        cycle.scope["extensions"] = {_EXTENSION: partial(_write_whole, cycle)}  # type: ignore[dict-item]
        super()._start_asgi_task(cycle, app)

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


def _write_whole(cycle: RequestResponseCycle, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> bool:
    """Write an answer that is there as a whole; see `WriteWhole`.

    uvicorn takes one in two messages, and looks through each header twice; that costs more than a small model.

    Raises:
        ValueError: A header holds the end of a line.
    """
    if cycle.disconnected or cycle.response_started or cycle.flow.write_paused or cycle.scope["method"] == "HEAD":
        return False
    parts = [STATUS_LINE[status]]
    for name, value in (*cycle.default_headers, *headers):
        parts += (name, b": ", value, b"\r\n")
    if not cycle.keep_alive:
        parts.append(b"connection: close\r\n")
    parts.append(b"\r\n")
    head = b"".join(parts)
    lines = len(cycle.default_headers) + len(headers) + 2 + (not cycle.keep_alive)
    if not head.count(b"\n") == head.count(b"\r") == lines:
        raise ValueError("expected headers of one line each")
    cycle.response_started = cycle.response_complete = True
    cycle.waiting_for_100_continue = False
    cycle.transport.writelines([head, body])
    # Who still listens for the client is told that it is over.
    cycle.message_event.set()
    if not cycle.keep_alive:
        cycle.transport.close()
    cycle.on_response()
    return True


def bounded_http(head_timeout_s: float) -> type[BoundedHttp]:
    """The protocol with its time, as uvicorn makes its instances itself."""
    return type("BoundedHttp", (BoundedHttp,), {"head_timeout_s": head_timeout_s})
