"""uvicorn's HTTP, with heads of requests bounded in time and size, and a shorter way for answers that are whole.

uvicorn bounds no heads; a body is bounded where it is read.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

# Of all headers and the address together; what proxies allow is 8 to 64 KiB.
_MAX_HEAD_BYTES = 64 * 1024
_LATE = b"HTTP/1.1 408 Request Timeout\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"

_EXTENSION = "tfpipe.client"


class Client(Protocol):
    """Who waits for an answer, at the other end of a connection of our own server."""

    def write(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> bool:
        """Write an answer that is there as a whole.

        uvicorn takes one in two messages, and looks through each header twice; that costs more than a small model.

        Args:
            status: Of HTTP.
            headers: Content-Length among them.
            body: Of the answer.

        Returns:
            Whether it was written; if not, ASGI's way is open.

        Raises:
            ValueError: A header holds the end of a line.
        """

    def when_gone(self, call: Callable[[], None]) -> None:
        """Have a function called once, if the connection is closed before the answer; its body was read."""

    def forget(self) -> None:
        """Have nothing called any more."""


def client_of(scope: Scope) -> Client | None:
    """The client of a request; None on another server than ours."""
    extensions = scope.get("extensions")
    return extensions.get(_EXTENSION) if extensions else None


class FastPath(Protocol):
    """Answers some requests without the way through ASGI; see `serving.v2.fast_path`."""

    def take(self, connection: "BoundedHttp", data: bytes) -> bool:
        """Answer what came alone on a connection until the end of this turn of the event loop, if it can."""

    def close(self) -> None:
        """No more will come."""


class BoundedHttp(HttpToolsProtocol):
    """Closes a connection that has not sent the head of a request in time, or one that is too large.

    A head that comes at once, as nearly all do, costs two assignments.

    Attributes:
        head_timeout_s: From the connection, or from a later request's first byte, to the end of its head.
        fast_path: Asked first; None for the way through ASGI alone.
    """

    head_timeout_s: float
    fast_path: FastPath | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._in_head, self._head_bytes, self._has_begun = True, 0, False
        self._head_timer: asyncio.TimerHandle | None = None
        # Whether the parser is inside a request; of those on the fast path it does not know.
        self._in_request = False
        # What came while the fast path had a request; None while it has none.
        self._held: bytes | None = None
        # When it had one last.
        self._fast_s = 0.0
        # Of the request that is answered the way through ASGI.
        self._when_gone: Callable[[], None] | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there; from now on it has so long."""
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(self.head_timeout_s, self._refuse, _LATE)

    def connection_lost(self, exc: Exception | None) -> None:
        """A client is gone."""
        self._stop()
        super().connection_lost(exc)
        if self._when_gone is not None:
            self._when_gone()

    def on_message_begin(self) -> None:
        """The first byte of a head."""
        self._in_head, self._head_bytes, self._in_request, self._has_begun = True, 0, True, True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The last byte of a head."""
        self._in_head = False
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Some bytes of a body; as they came, where uvicorn would copy them into what grows, and out of that again."""
        cycle = self.cycle
        if not cycle.body and not cycle.response_complete:
            cycle.body, body = body, b""  # type: ignore[assignment]
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The last byte of a request."""
        self._in_request = False
        super().on_message_complete()

    def data_received(self, data: bytes) -> None:
        """Some bytes."""
        if self._held is not None:
            self._held += data
            return
        if self.fast_path is not None and self._is_between_requests():
            self._held, before_s = b"", self._fast_s
            self._fast_s = self.loop.time()
            if self.fast_path.take(self, data):
                return
            self._held, self._fast_s = None, before_s
        self._feed(data)

    def answer(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes, *, unread: int = 0) -> None:
        """Write what the fast path answers, and go on with what came meanwhile.

        Args:
            status: Of HTTP.
            headers: Content-Length among them.
            body: Of the answer.
            unread: Bytes of the request that are still to come, and are passed over.
        """
        head = _head(status, (*self.server_state.default_headers, *headers), keep_alive=True)
        if self.transport.is_closing():
            return
        self.transport.write(head + body)
        if unread:
            self.transport.set_protocol(_PassedOver(self, unread))
        self.server_state.total_requests += 1
        if self._head_timer is not None:
            self._stop()
        if self.timeout_keep_alive_task is None:
            self.timeout_keep_alive_handler()
        self._go_on()

    def go_the_long_way(self, data: bytes) -> None:
        """Take what the fast path did not answer as if it came only now."""
        if not self.transport.is_closing():
            self._feed(data)
            self._go_on()

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection, unless the fast path has had a request of late."""
        left_s = self._fast_s + self.timeout_keep_alive - self.loop.time()
        if left_s <= 0.0:
            super().timeout_keep_alive_handler()
        else:
            # One timer for many answers.
            self.timeout_keep_alive_task = self.loop.call_later(left_s, self.timeout_keep_alive_handler)

    def shutdown(self) -> None:
        """Close the connection, or what is asked on it is the last thing that is answered."""
        if self._held is None:
            super().shutdown()
        else:
            self.loop.call_soon(super().shutdown)

    def go_on_after(self, *, unread: int) -> None:
        """Some of a body that is passed over came.

        Args:
            unread: Bytes of it that are still to come.
        """
        self._fast_s = self.loop.time()
        if not unread:
            self.transport.set_protocol(self)

    def watch(self, when_gone: Callable[[], None] | None) -> None:
        """Have a function called when the client is gone; None for nothing."""
        self._when_gone = when_gone
        # A body that came in large pieces had it paused, and then nobody would see that the connection is closed.
        if when_gone is not None:
            self.flow.resume_reading()

    def _is_between_requests(self) -> bool:
        is_answered = self.cycle is None or self.cycle.response_complete
        return not self._in_request and is_answered and not self.pipeline and not self.flow.write_paused

    def _go_on(self) -> None:
        held, self._held = self._held, None
        if held:
            self.data_received(held)

    def _feed(self, data: bytes) -> None:
        self._has_begun = False
        super().data_received(data)
        if not self._in_head:
            if self._head_timer is not None:
                self._stop()
            return
        # What it begins with may have other requests before it.
        self._head_bytes += 1 if self._has_begun else len(data)
        if self._head_bytes > _MAX_HEAD_BYTES:
            self._refuse(_LARGE)
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(self.head_timeout_s, self._refuse, _LATE)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        # An extension of ASGI's scope.
        cycle.scope["extensions"] = {_EXTENSION: _Client(self, cycle)}  # type: ignore[dict-item]
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


class _PassedOver(asyncio.BufferedProtocol):
    """Takes the rest of a body that nobody will read, all of them into the same memory."""

    _scratch = memoryview(bytearray(64 * 1024))

    def __init__(self, after: BoundedHttp, unread: int) -> None:
        self._after, self._unread = after, unread

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where it goes: no more of it than is the body's."""
        return self._scratch[: self._unread]

    def buffer_updated(self, nbytes: int) -> None:
        """Some of it came."""
        self._unread -= nbytes
        self._after.go_on_after(unread=self._unread)

    def eof_received(self) -> None:
        """No more will come."""
        self._after.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        """A client is gone."""
        self._after.connection_lost(exc)

    def pause_writing(self) -> None:
        """It does not read its answers."""
        self._after.pause_writing()

    def resume_writing(self) -> None:
        """It does again."""
        self._after.resume_writing()


class _Client:
    __slots__ = ("_connection", "_cycle")

    def __init__(self, connection: BoundedHttp, cycle: RequestResponseCycle) -> None:
        self._connection, self._cycle = connection, cycle

    def write(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> bool:
        cycle = self._cycle
        if cycle.disconnected or cycle.response_started or cycle.flow.write_paused or cycle.scope["method"] == "HEAD":
            return False
        head = _head(status, (*cycle.default_headers, *headers), keep_alive=cycle.keep_alive)
        cycle.response_started = cycle.response_complete = True
        cycle.waiting_for_100_continue = False
        cycle.transport.writelines([head, body])
        # Who still listens for the client is told that it is over.
        cycle.message_event.set()
        if not cycle.keep_alive:
            cycle.transport.close()
        cycle.on_response()
        return True

    def when_gone(self, call: Callable[[], None]) -> None:
        self._connection.watch(call)

    def forget(self) -> None:
        self._connection.watch(None)


def _head(status: int, headers: Sequence[tuple[bytes, bytes]], *, keep_alive: bool) -> bytes:
    parts = [STATUS_LINE[status]]
    for name, value in headers:
        parts += (name, b": ", value, b"\r\n")
    if not keep_alive:
        parts.append(b"connection: close\r\n")
    parts.append(b"\r\n")
    head = b"".join(parts)
    lines = len(headers) + 2 + (not keep_alive)
    if not head.count(b"\n") == head.count(b"\r") == lines:
        raise ValueError("expected headers of one line each")
    return head


def bounded_http(head_timeout_s: float, fast_path: FastPath | None = None) -> type[BoundedHttp]:
    """The protocol with its time and its fast path, as uvicorn makes its instances itself."""
    return type("BoundedHttp", (BoundedHttp,), {"head_timeout_s": head_timeout_s, "fast_path": fast_path})
