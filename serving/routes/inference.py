"""What an inference request of any foreign protocol goes through: body, deadline, rows, and what is measured."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from starlette.types import Receive

from serving.bodies import Body
from serving.encodings import decoded, encoded, encoding_headers
from serving.errors import DeadlineError, MethodError
from serving.parameters import timeout_s
from serving.patience import Listener, Patience
from serving.request import Request
from serving.routes.answers import Answer, headers_of
from serving.routes.choice import Choice
from serving.runs import AnyEngine
from serving.service import Service

# What is larger is taken apart, packed or unpacked in a thread, so that other requests go on meanwhile.
SMALL_BYTES = 64 * 1024
_NO_PARAMETERS: Mapping[str, str] = {}

T = TypeVar("T")


class Asked:
    """One inference request under way.

    Attributes:
        patience: To be entered; what its block does is given up when the deadline passes, the body takes too long to
            come, or the client hangs up.
        stage_s: Seconds by stage so far.
        deadline_s: `time.monotonic()` after which nobody waits for the answer.
    """

    __slots__ = ("_body", "_limit_s", "_request", "_service", "deadline_s", "patience", "stage_s")

    def __init__(self, service: Service, request: Request, parameters: Mapping[str, str] = _NO_PARAMETERS) -> None:
        """Begin; the time that a request has is counted from its arrival.

        Args:
            service: What it came to.
            request: Its headers may shorten its time.
            parameters: Of its query; they may, too.

        Raises:
            InvalidRequestError: X-Timeout-Ms or timeout_ms is no number of milliseconds above 0.
        """
        self._service, self._request = service, request
        self._limit_s = timeout_s(request, parameters, longest_s=service.settings.timeout_ms / 1000)
        self.deadline_s = request.started_s + self._limit_s
        self.stage_s = request.stage_s
        self._body: Body | None = None
        self.patience = Patience(self.deadline_s, self._late)

    def shorten(self, limit_s: float | None) -> None:
        """Let it have less time, as its body says."""
        if limit_s is not None and limit_s < self._limit_s:
            self._limit_s = limit_s
            self.deadline_s = self._request.started_s + limit_s
            self.patience.wait_until(self.deadline_s)

    async def body(self, receive: Receive, choice: Choice) -> bytes:
        """The whole body, unpacked; from then on the client may hang up.

        Args:
            receive: ASGI's.
            choice: What it is read for.

        Raises:
            RequestError: See `Body.read` and `decoded`.
            QueueFullError: Too much waits already. Under overload, reading bodies would cost what the model needs.
            DeadlineError: The answer cannot be there in time.
        """
        choice.check_room(deadline_s=self.deadline_s)
        settings, request = self._service.settings, self._request
        reading = self._body = Body()
        self.patience.wait_until(min(self.deadline_s, request.started_s + settings.body_timeout_ms / 1000))
        body = await reading.read(request.headers, receive, max_bytes=settings.max_body_bytes)
        self._body = None
        self.patience.wait_until(self.deadline_s)
        self.patience.wait_for(request.client or Listener(receive))
        if b"content-encoding" in request.headers:
            packed = body
            body = await self._service.run(lambda: decoded(request.headers, packed, max_bytes=settings.max_body_bytes))
        self.stage_s["body"] = time.monotonic() - request.started_s
        return body

    async def work(self, num_bytes: int, function: Callable[[], T]) -> T:
        """What a function makes of so many bytes, in a thread if they are many."""
        return function() if num_bytes <= SMALL_BYTES else await self._service.run(function)

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
            body, encoding = await self.work(len(content), lambda: encoded(self._request.headers, content))
            headers = [*headers, *encoding_headers(encoding)]
        total_s = time.monotonic() - self._request.started_s
        return Answer(200, body, [*headers, *headers_of(engine, self.stage_s, total_s)], **fields)

    def _late(self) -> Exception:
        body_s = self._service.settings.body_timeout_ms / 1000
        if self._body is not None and body_s < self._limit_s:
            return self._body.late(body_s)
        return DeadlineError(
            f"deadline: expected an answer within {self._limit_s * 1000:g} ms, there was none.",
            timeout_ms=self._limit_s * 1000,
        )


def check_method(request: Request, method: str) -> None:
    """Refuse other methods; HEAD is asked as GET, and loses its body in the server.

    Raises:
        MethodError: It is another.
    """
    if request.method != method and not (method == "GET" and request.method == "HEAD"):
        raise MethodError(f"{request.path}: expected {method}, received {request.method}.", allowed=[method])
