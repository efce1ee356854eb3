"""The outermost ASGI function: it admits every request, then answers it or hands it to FastAPI.

FastAPI carries what people read (documentation, health, metrics). Its routing and validation cost more than a small
model, so inference paths are answered in front of it; their documentation is added to its own.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.errors import MethodError, NotReadyError
from serving.request import Request
from serving.routes.answers import Answer, refuse
from serving.service import Service

logger = logging.getLogger(__name__)

Handler = Callable[[Request, Receive], Awaitable[Answer]]


class Admission:
    """ASGI application in front of FastAPI.

    Attributes:
        service: What it admits to.
    """

    def __init__(self, service: Service, handlers: Mapping[str, Handler], inner: ASGIApp) -> None:
        """Wire it.

        Args:
            service: Its state, and where requests in flight are counted.
            handlers: By path; each answers POST.
            inner: Answers every other path.
        """
        self.service = service
        self._handlers = handlers
        self._inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; ASGI 3."""
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        request = Request.of(scope)
        handler = self._handlers.get(request.path)
        if handler is None:
            await self._hand_over(request, scope, receive, send)
        else:
            await self._infer(handler, request, receive, send)

    async def _infer(self, handler: Handler, request: Request, receive: Receive, send: Send) -> None:
        with self.service.admitted():
            answer = await self._answer(handler, request, receive)
            latency_s = time.monotonic() - request.started_s
            self.service.metrics.record_request(**self.service.labels, code=answer.status, latency_s=latency_s)
            logger.debug(
                "answered",
                extra={"fields": {"request_id": request.id, "path": request.path, "status": answer.status}},
            )
            await _send(answer, request, send)

    async def _answer(self, handler: Handler, request: Request, receive: Receive) -> Answer:
        try:
            request.check_id()
            if request.method != "POST":
                raise MethodError(f"{request.path}: expected POST, received {request.method}.", allowed=["POST"])
            return await handler(request, receive)
        except asyncio.CancelledError:
            if not self.service.is_cut:
                raise
            error: Exception = NotReadyError("service: expected time to finish, but it stops now.", status="draining")
        # The outermost edge: whatever it is, it is counted, logged and answered in one form.
        except Exception as caught:
            error = caught
        return refuse(error, request, self.service)

    async def _hand_over(self, request: Request, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"x-request-id", request.id.encode())]
            await send(message)

        # The server drops the body of an answer to HEAD.
        method = "GET" if request.method == "HEAD" else request.method
        inner_scope = {**scope, "method": method, "state": {**scope.get("state", {}), "request": request}}
        # Starlette raises again what its error handler has answered.
        with contextlib.suppress(Exception):
            await self._inner(inner_scope, receive, send_with_id)


async def _send(answer: Answer, request: Request, send: Send) -> None:
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(answer.body)).encode()),
        (b"x-request-id", request.id.encode()),
        *answer.headers,
    ]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
