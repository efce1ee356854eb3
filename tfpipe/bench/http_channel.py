"""A client's side of HTTP/1.1, as thin as it goes: the generator of a load must not be what is measured.

Source of the grammar: RFC 9112; httptools parses answers.
"""

import asyncio
import ssl
from collections.abc import Mapping
from typing import cast
from urllib.parse import SplitResult

import httptools

from tfpipe.bench.channel import BROKEN, TIMEOUT, UNREACHABLE, Reply


def render_request(url: SplitResult, method: str, path: str, headers: Mapping[str, str], body: bytes) -> bytes:
    """The bytes of a request.

    Args:
        url: Of the service; its path comes before `path`.
        method: "GET", "POST".
        path: With the query, from "/".
        headers: Further ones.
        body: Content.
    """
    lines = [f"{method} {url.path.rstrip('/')}{path} HTTP/1.1", f"Host: {url.netloc}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if body or method != "GET":
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


class HttpChannel:
    """See `Channel`."""

    def __init__(self, url: SplitResult, *, timeout_s: float) -> None:
        """Connect to nothing yet.

        Args:
            url: http or https, with a host.
            timeout_s: Longest time for one exchange, connecting included.
        """
        self._host, self._tls = url.hostname or "", url.scheme == "https"
        self._port = url.port or (443 if self._tls else 80)
        self._timeout_s = timeout_s
        self._exchange: _Exchange | None = None

    async def exchange(self, request: bytes) -> Reply:
        """See `Channel`."""
        try:
            async with asyncio.timeout(self._timeout_s):
                connection = self._exchange
                if connection is None or connection.is_closed:
                    connection = self._exchange = await self._connect()
                return await connection.send(request)
        except TimeoutError:
            # What comes later would be taken for the answer to the next request.
            self.close()
            return Reply(TIMEOUT, ok=False)
        except OSError as error:
            return Reply(UNREACHABLE, ok=False, body=str(error).encode())

    def close(self) -> None:
        """See `Channel`."""
        if self._exchange is not None:
            self._exchange.abort()
            self._exchange = None

    async def _connect(self) -> "_Exchange":
        context = ssl.create_default_context() if self._tls else None
        loop = asyncio.get_running_loop()
        _, protocol = await loop.create_connection(_Exchange, self._host, self._port, ssl=context)
        return protocol


class _Exchange(asyncio.Protocol):
    """One connection that is open, and the answer that it waits for."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[Reply] | None = None
        self._body: list[bytes] = []
        self._parser = httptools.HttpResponseParser(self)
        self.is_closed = False

    async def send(self, request: bytes) -> Reply:
        if self._transport is None:
            raise ConnectionError("the connection is not open")
        self._waiter = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._waiter

    def abort(self) -> None:
        self.is_closed = True
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's is no subclass of it.
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._answer(Reply(BROKEN, ok=False, body=f"an answer that is no HTTP: {error}".encode()))
            self.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_closed = True
        self._answer(Reply(BROKEN, ok=False, body=str(exc or "closed by the server").encode()))

    def on_body(self, part: bytes) -> None:
        self._body.append(part)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            # 100 Continue and the like: the answer is still to come.
            return
        body = b"".join(self._body)
        self._body.clear()
        if not self._parser.should_keep_alive():
            self.abort()
        # A parser takes one message after the other.
        self._answer(Reply(str(status), ok=status < 300, body=body))

    def _answer(self, reply: Reply) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(reply)


async def fetch(url: SplitResult, path: str, headers: Mapping[str, str], *, timeout_s: float) -> Reply:
    """GET one document."""
    channel = HttpChannel(url, timeout_s=timeout_s)
    try:
        return await channel.exchange(render_request(url, "GET", path, headers, b""))
    finally:
        channel.close()
