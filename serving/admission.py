"""The outermost ASGI function: it admits every request, then answers it or hands it to FastAPI.

FastAPI carries what people read (documentation, health, metrics). Its routing and validation cost more than a small
model, so inference paths are answered in front of it; their documentation is added to its own.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.errors import NotReadyError, RequestError
from serving.gate import Gate, scope_of
from serving.http_protocol import FastPath
from serving.keys import Scope as KeyScope
from serving.request import Request
from serving.routes.answers import Answer, refuse
from serving.service import Service
from serving.tracing import Tracing

logger = logging.getLogger(__name__)

Handler = Callable[[Request, Receive], Awaitable[Answer]]


@dataclass(frozen=True)
class Protocol:
    """A way to ask for answers.

    Attributes:
        name: For metrics.
        handle: Answers a request of any method.
        refuse: Answers an error in the protocol's own form; counts and logs it.
    """

    name: str
    handle: Handler
    refuse: Callable[[Exception, Request, Service], Answer]


class Admission:
    """ASGI application in front of FastAPI.

    Attributes:
        service: What it admits to.
        fast_path: What may answer in its place on connections of our own server; None where every request is to pass.
    """

    def __init__(
        self,
        service: Service,
        protocols: Mapping[str, Protocol],
        inner: ASGIApp,
        *,
        gate: Gate,
        tracing: Tracing | None = None,
        fast_path: FastPath | None = None,
    ) -> None:
        """Wire it.

        Args:
            service: Its state, and where requests in flight are counted.
            protocols: By the first segment of the path, e.g. "predict".
            inner: Answers every other path.
            gate: Who may pass.
            tracing: Where spans go; None for nowhere.
            fast_path: See the attribute.
        """
        self.service, self.fast_path = service, fast_path
        self._protocols = protocols
        self._inner = inner
        self._gate, self._tracing = gate, tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; ASGI 3."""
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        request = Request.of(scope)
        protocol = self._protocols.get(request.path[1:].partition("/")[0])
        if protocol is None:
            await self._hand_over(request, scope, receive, send)
        else:
            await self._infer(protocol, request, receive, send)

    async def _infer(self, protocol: Protocol, request: Request, receive: Receive, send: Send) -> None:
        task = self.service.enter()
        try:
            answer = await self._answer(protocol, request, receive)
            self.record(protocol.name, request, answer.status)
            await _send(answer, request, send)
        finally:
            self.service.leave(task)

    async def _answer(self, protocol: Protocol, request: Request, receive: Receive) -> Answer:
        try:
            request.check_id()
            scope = scope_of(request.path)
            if scope is None:
                return await protocol.handle(request, receive)
            self.enter(request, scope)
            try:
                return await protocol.handle(request, receive)
            finally:
                self.leave(request)
        except asyncio.CancelledError:
            if not self.service.is_cut:
                raise
            error: Exception = NotReadyError("service: expected time to finish, but it stops now.", status="draining")
        # The outermost edge: whatever it is, it is counted, logged and answered in one form.
        except Exception as caught:
            error = caught
        try:
            return protocol.refuse(error, request, self.service)
        finally:
            # Its traceback holds this frame: a circle that would keep the request's model in memory.
            del error

    def enter(self, request: Request, scope: KeyScope) -> None:
        """Let a request through the gate; it must `leave`.

        Raises:
            RequestError: It may not pass.
        """
        request.caller = self._gate.enter(request.headers, scope)

    def leave(self, request: Request) -> None:
        """A request that was let through is answered."""
        self._gate.leave(request.caller)

    def record(self, protocol: str, request: Request, status: int) -> None:
        """Count, trace and log a request that is answered.

        Args:
            protocol: For metrics.
            request: Its version and stages are known.
            status: Of HTTP.
        """
        seconds = time.monotonic() - request.started_s
        labels = self.service.labels_of(request.deployment)
        self.service.metrics.record_request(
            **labels,
            code=status,
            latency_s=seconds,
            protocol=protocol,
            stage_s=request.stage_s,
            is_routed=request.is_routed,
        )
        if self._tracing is not None:
            attributes = {"tfpipe.protocol": protocol, **{f"tfpipe.{name}": value for name, value in labels.items()}}
            self._tracing.record(request, status=status, seconds=seconds, stages=request.stage_s, attributes=attributes)
        if logger.isEnabledFor(logging.DEBUG):
            fields = {
                "request_id": request.id,
                "method": request.method,
                "path": request.path,
                "protocol": protocol,
                "status": status,
                "key": request.caller.name,
                **labels,
                "latency_ms": round(seconds * 1000, 3),
                "stages_ms": {stage: round(stage_s * 1000, 3) for stage, stage_s in request.stage_s.items()},
            }
            logger.debug("answered", extra={"fields": fields})

    async def _hand_over(self, request: Request, scope: Scope, receive: Receive, send: Send) -> None:
        needed = scope_of(request.path)
        if needed is None:
            await self._read(request, scope, receive, send)
            return
        try:
            self.enter(request, needed)
        except RequestError as error:
            await _send(refuse(error, request, self.service), request, send)
            return
        try:
            await self._read(request, scope, receive, send)
        finally:
            self.leave(request)

    async def _read(self, request: Request, scope: Scope, receive: Receive, send: Send) -> None:
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
        (b"content-type", answer.media),
        (b"content-length", str(len(answer.body)).encode()),
        (b"x-request-id", request.id.encode()),
        *answer.headers,
    ]
    client = request.client
    if client is not None and not answer.ends_connection and client.write(answer.status, headers, answer.body):
        return
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
