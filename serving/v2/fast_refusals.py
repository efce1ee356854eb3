"""A short way to refuse what there is no room for: under overload a refusal must cost next to nothing.

Beside a large model, nothing of the service is in the processor's caches when a request comes, and what it goes through
otherwise, its body included, takes time that the model needs. Here a head that was seen before is enough, what one is
told holds for those behind it, and lines of the log are written together.
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from serving.deployment import Deployment
from serving.errors import RequestError
from serving.gate import Gate
from serving.models import Way
from serving.request import Request, next_id
from serving.routes.answers import Answer, Refused, count_error, in_a_sentence, log_refused
from serving.service import ROUTED, Service
from serving.v2.plain_heads import Head
from serving.wanted import Wanted

_LOG_EVERY_S = 0.2


class Connection(Protocol):
    """Where a request came from, and its answer goes."""

    def answer(self, status: int, headers: Sequence[tuple[bytes, bytes]], body: bytes, *, unread: int = 0) -> None:
        """Write an answer, and go on with what came meanwhile, and comes after so many bytes of the request."""

    def go_the_long_way(self, data: bytes) -> None:
        """Take a request as if it came only now."""


@dataclass(slots=True)
class _Standing:
    """A refusal that all meet who ask the same, until something changes that it comes from."""

    deployment: Deployment
    way: Way
    error: RequestError
    answer: Answer
    rows: int
    bytes: int
    batch_s: float
    changes: int

    def holds(self, changes: int) -> bool:
        # How long a request would wait does not depend on when it comes.
        room = self.deployment.batcher.room
        return (
            self.changes == changes
            and room.rows >= self.rows
            and room.bytes >= self.bytes
            and room.pace.batch_s == self.batch_s
            and not self.deployment.breaker.is_open
        )


class FastRefusals:
    """Refuses plain requests to models that have no room; used on the event loop.

    Args:
        service: Whose models.
        gate: Who may pass.
    """

    def __init__(self, service: Service, gate: Gate) -> None:
        self._service, self._gate = service, gate
        self._unlogged: list[Refused] = []
        # Since the log was written last, so that no version is held that is gone.
        self._standing: dict[Wanted, _Standing] = {}

    def refuse(self, connection: Connection, head: Head, *, unread: int, came_s: float) -> bool:
        """Refuse a request, if that is certain.

        Args:
            connection: It came alone on it.
            head: Of it.
            unread: Bytes of it that are still to come.
            came_s: `time.monotonic()` of its arrival.
        """
        service = self._service
        found = self._standing.get(head.wanted)
        if found is None or service.status != "ready" or not found.holds(service.models.changes):
            found = self._find(head, came_s)
        if found is None:
            return False
        try:
            caller = self._gate.enter(head.headers, "predict")
        except RequestError:
            return False
        self._gate.leave(caller)
        deployment, is_routed = found.deployment, found.way in ROUTED
        request = Request(
            head.id or next_id(), "POST", head.path, head.headers, b"", came_s, deployment, is_routed, caller=caller
        )
        answer = found.answer
        headers = [*answer.headers, (b"x-request-id", request.id.encode())]
        connection.answer(answer.status, headers, answer.body, unread=unread)
        latency_s = time.monotonic() - came_s
        count_error(found.error, request, service)
        service.metrics.record_routed(**deployment.labels, arm=found.way)
        service.metrics.record_request(
            **deployment.labels,
            code=answer.status,
            latency_s=latency_s,
            protocol="v2",
            stage_s=request.stage_s,
            is_routed=is_routed,
        )
        self._standing[head.wanted] = found
        if not self._unlogged:
            asyncio.get_running_loop().call_later(_LOG_EVERY_S, self.write_log)
        self._unlogged.append(Refused(found.error, request, time.time(), latency_s))
        return True

    def _find(self, head: Head, came_s: float) -> _Standing | None:
        service = self._service
        found = service.find_full(head.wanted, deadline_s=came_s + service.settings.timeout_ms / 1000)
        if found is None:
            return None
        deployment, way, error = found
        answer = in_a_sentence(error, head.headers)
        answer.headers += ((b"content-type", answer.media), (b"content-length", str(len(answer.body)).encode()))
        room, changes = deployment.batcher.room, service.models.changes
        return _Standing(deployment, way, error, answer, room.rows, room.bytes, room.pace.batch_s, changes)

    def write_log(self) -> None:
        """Log what was refused since the last time, a line each."""
        self._standing.clear()
        refused, self._unlogged = self._unlogged, []
        log_refused(refused)
