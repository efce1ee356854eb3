"""What an inference request of any foreign protocol goes through: body, deadline, rows, and what is measured."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from starlette.types import Receive

from serving.bodies import read_body
from serving.deployment import AnyEngine
from serving.encodings import decoded, encoded
from serving.errors import DeadlineError, MethodError
from serving.parameters import timeout_s
from serving.request import Request
from serving.routes.answers import Answer
from serving.routes.predict import headers_of
from serving.routes.work import work_on
from serving.service import Service

T = TypeVar("T")


class Asked:
    """One inference request under way.

    Attributes:
        stage_s: Seconds by stage so far.
        deadline_s: `time.monotonic()` after which nobody waits for the answer.
    """

    def __init__(self, service: Service, request: Request) -> None:
        """Begin; the time that a request has is counted from its arrival.

        Raises:
            InvalidRequestError: X-Timeout-Ms is no number of milliseconds above 0.
        """
        self._service, self._request = service, request
        self._limit_s = timeout_s(request, {}, longest_s=service.settings.timeout_ms / 1000)
        self.deadline_s = request.started_s + self._limit_s
        self.stage_s = request.stage_s
        self._timer: asyncio.Timeout | None = None

    def shorten(self, limit_s: float | None) -> None:
        """Let it have less time, as its body says."""
        if limit_s is not None and limit_s < self._limit_s:
            self._limit_s = limit_s
            self.deadline_s = self._request.started_s + limit_s
            if self._timer is not None:
                self._timer.reschedule(asyncio.get_running_loop().time() + self.deadline_s - time.monotonic())

    @asynccontextmanager
    async def in_time(self) -> AsyncIterator[None]:
        """Give up what the block does when the deadline passes.

        Raises:
            DeadlineError: It has passed.
        """
        try:
            # One for all of it: each costs more than a small model.
            async with asyncio.timeout(self.deadline_s - time.monotonic()) as self._timer:
                yield
        except TimeoutError:
            raise DeadlineError(
                f"deadline: expected an answer within {self._limit_s * 1000:g} ms, there was none.",
                timeout_ms=self._limit_s * 1000,
            ) from None

    async def body(self, receive: Receive) -> bytes:
        """The whole body, unpacked.

        Raises:
            RequestError: See `read_body` and `decoded`.
        """
        settings, request = self._service.settings, self._request
        body = await read_body(
            request.headers,
            receive,
            max_bytes=settings.max_body_bytes,
            timeout_s=settings.body_timeout_ms / 1000,
        )
        if b"content-encoding" in request.headers:
            packed = body
            body = await self._service.run(lambda: decoded(request.headers, packed, max_bytes=settings.max_body_bytes))
        self.stage_s["body"] = time.monotonic() - request.started_s
        return body

    async def work(self, body: bytes, function: Callable[[], T]) -> T:
        """See `work_on`."""
        return await work_on(body, function, self._service)

    async def answer(
        self, engine: AnyEngine, body: bytes, headers: Sequence[tuple[bytes, bytes]] = (), **fields: bytes
    ) -> Answer:
        """Record what was measured, and answer.

        Args:
            engine: What answered.
            body: Of the answer.
            headers: More of them.
            fields: Of `Answer`.
        """
        if b"accept-encoding" in self._request.headers:
            content = body
            body, encoding = await self.work(content, lambda: encoded(self._request.headers, content))
            if encoding is not None:
                headers = [*headers, (b"content-encoding", encoding), (b"vary", b"Accept-Encoding")]
        total_s = time.monotonic() - self._request.started_s
        return Answer(200, body, [*headers, *headers_of(engine, {**self.stage_s, "total": total_s})], **fields)


def check_method(request: Request, method: str) -> None:
    """Refuse other methods; HEAD is asked as GET, and loses its body in the server.

    Raises:
        MethodError: It is another.
    """
    if request.method != method and not (method == "GET" and request.method == "HEAD"):
        raise MethodError(f"{request.path}: expected {method}, received {request.method}.", allowed=[method])
