"""A short way for the requests of which there are most: rows for a quick model, by the binary tensor extension.

What a request of the Open Inference Protocol usually goes through (its head parsed, a task, a deadline, somebody who
listens for its client) takes longer than a small model runs. Here heads and JSON that were seen before are looked up,
the rows that came in one turn of the event loop are run in it, and their answers written. There is nothing to wait for,
and so nothing that could be late, be given up, or hold up a drain.

Whatever is out of the ordinary goes the long way from its first byte on, through `serving.routes.open_inference`; that
is where each error is told. Both ways give the same answers.
"""

import asyncio
import contextlib
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from serving.deployment import Deployment
from serving.encodings import encoded, encoding_headers
from serving.engine import Answered, Engine, Row
from serving.errors import RequestError
from serving.gate import Gate
from serving.keys import Caller
from serving.model_inputs import MAX_ROWS
from serving.models import Way
from serving.request import next_id
from serving.routes.answers import headers_of
from serving.service import ROUTED, Service
from serving.v2.datatypes import DTYPES
from serving.v2.fast_refusals import Connection, FastRefusals
from serving.v2.http_bodies import HEADER_LENGTH, write_infer
from serving.v2.inputs import ROWS
from serving.v2.json_header import Promised, read_header
from serving.v2.messages import InferRequest, Tensor
from serving.v2.outputs import check_outputs, given_names, outputs_of, wants_features
from serving.v2.plain_heads import Head, Heads
from tfpipe.core.errors import TfpipeError
from tfpipe.core.signature import Array

# Larger bodies do not come in one piece, and are taken apart beside the event loop.
_MOST_BODY_BYTES = 64 * 1024
_ROWS_DATATYPE = "FP32"
_BINARY = b"application/octet-stream"


@dataclass(slots=True)
class _Waiting:
    connection: Connection
    head: Head
    data: bytes
    engine: Engine
    request: InferRequest
    rows: list[Array]
    way: Way
    caller: Caller
    came_s: float
    read_s: float


class FastPath:
    """Answers plain requests to quick models; used on the event loop.

    Args:
        service: Whose models.
        gate: Who may pass.
    """

    def __init__(self, service: Service, gate: Gate) -> None:
        self._service, self._gate = service, gate
        self._heads = Heads(max_body_bytes=service.settings.max_body_bytes)
        self._refusals = FastRefusals(service, gate)
        self._waiting: dict[Deployment, list[_Waiting]] = {}

    def take(self, connection: Connection, data: bytes) -> bool:
        """Answer a request, if it is a plain one: at the end of this turn of the event loop, or refuse it at once.

        Args:
            connection: It came alone on it.
            data: All that came; of what is refused, the rest may still come.
        """
        came_s = time.monotonic()
        head = self._heads.read(data)
        if head is None or len(data) > head.num_bytes:
            return False
        if not self._is_taken(connection, head, data, came_s):
            return self._refusals.refuse(connection, head, unread=head.num_bytes - len(data), came_s=came_s)
        return True

    def close(self) -> None:
        """Log what is not logged yet."""
        self._refusals.write_log()

    def _is_taken(self, connection: Connection, head: Head, data: bytes, came_s: float) -> bool:
        is_whole = head.num_bytes == len(data) <= head.start + _MOST_BODY_BYTES
        found = self._service.find_plain(head.wanted) if is_whole and head.json_end is not None else None
        if found is None:
            return False
        deployment, way = found
        asked = _read(deployment, data, head)
        if asked is None:
            return False
        try:
            caller = self._gate.enter(head.headers, "predict")
        except RequestError:
            return False
        waiting = self._waiting.get(deployment)
        if waiting is None:
            if not self._waiting:
                asyncio.get_running_loop().call_soon(self._run_all)
            waiting = self._waiting[deployment] = []
        waiting.append(_Waiting(connection, head, data, *asked, way, caller, came_s, time.monotonic()))
        return True

    def _run_all(self) -> None:
        given, self._waiting = self._waiting, {}
        for deployment, waiting in given.items():
            some: list[_Waiting] = []
            rows = 0
            for one in waiting:
                if some and rows + len(one.rows) > deployment.batcher.quick_rows:
                    self._run(deployment, some)
                    some, rows = [], 0
                some.append(one)
                rows += len(one.rows)
            self._run(deployment, some)

    def _run(self, deployment: Deployment, some: Sequence[_Waiting]) -> None:
        began_s = time.monotonic()
        results: Sequence[list[Row | Exception]] | None = None
        if self._service.status == "ready" and began_s < some[0].came_s + self._service.settings.timeout_ms / 1000:
            # Whatever it is, it is told on the long way.
            with contextlib.suppress(Exception):
                results = deployment.run_now([one.rows for one in some])
        run_s = time.monotonic() - began_s
        for place, one in enumerate(some):
            is_answered = False
            self._gate.leave(one.caller)
            if results is not None:
                with contextlib.suppress(Exception):
                    self._answer(deployment, one, _answered(one, results[place]), began_s, run_s)
                    is_answered = True
            if not is_answered:
                one.connection.go_the_long_way(one.data)

    def _answer(
        self, deployment: Deployment, one: _Waiting, answered: Sequence[Answered], began_s: float, run_s: float
    ) -> None:
        engine = one.engine
        done_s = time.monotonic()
        outputs = outputs_of(engine, one.request, answered)
        body, length = write_infer(
            model_name=engine.name, model_version=engine.version, request=one.request, outputs=outputs
        )
        body, encoding = encoded(one.head.headers, body)
        now_s = time.monotonic()
        stage_s = {
            "body": one.read_s - one.came_s, "queue": began_s - one.read_s, "run": run_s, "postprocess": now_s - done_s
        }  # fmt: skip
        headers = [
            (b"content-type", _BINARY),
            (b"content-length", str(len(body)).encode()),
            (b"x-request-id", (one.head.id or next_id()).encode()),
            (HEADER_LENGTH, str(length).encode()),
            *encoding_headers(encoding),
            *headers_of(engine, stage_s, now_s - one.came_s),
        ]
        deployment.breaker.record(failed=False)
        metrics = self._service.metrics
        metrics.record_routed(**deployment.labels, arm=one.way)
        metrics.record_request(
            **deployment.labels,
            code=200,
            latency_s=now_s - one.came_s,
            protocol="v2",
            stage_s=stage_s,
            is_routed=one.way in ROUTED,
        )
        one.connection.answer(200, headers, body)


def _read(deployment: Deployment, data: bytes, head: Head) -> tuple[Engine, InferRequest, list[Array]] | None:
    """What is asked, and its rows; None where it is not one tensor of the model's rows, to be answered as bytes."""
    engine, json_end = deployment.engine, head.json_end
    if not isinstance(engine, Engine) or engine.takes != "image" or json_end is None:
        return None
    try:
        header = read_header(data[head.start : json_end])
        check_outputs(given_names(engine), header.request)
    except TfpipeError:
        return None
    asked = header.request
    if len(header.entries) != 1 or asked.timeout_s is not None or asked.routing_key is not None:
        return None
    if wants_features(asked) or not all(output.is_binary for output in asked.outputs or (asked,)):
        return None
    (entry,) = header.entries
    if not isinstance(entry, Promised) or entry.tensor.name != ROWS or header.num_bytes != len(data) - json_end:
        return None
    rows = _rows(engine, entry.tensor, data, json_end)
    return None if rows is None else (engine, asked, rows)


def _rows(engine: Engine, tensor: Tensor, data: bytes, start: int) -> list[Array] | None:
    shape, dtype = tensor.shape, DTYPES[_ROWS_DATATYPE]
    (spec,) = engine.inputs
    if tensor.datatype != _ROWS_DATATYPE or shape[1:] != spec.shape[1:] or not 0 < shape[0] <= MAX_ROWS:
        return None
    if math.prod(shape) * dtype.itemsize != len(data) - start:
        return None
    flat = np.frombuffer(data, dtype, offset=start)
    # Where squares are too large, the long way looks at each.
    return list(flat.reshape(shape)) if math.isfinite(np.vdot(flat, flat)) else None


def _answered(one: _Waiting, results: Sequence[Row | Exception]) -> list[Answered]:
    answered = []
    for row, result in zip(one.rows, results, strict=True):
        if isinstance(result, Exception):
            raise result
        answered.append(Answered(one.engine.own_row(row), (result,)))
    return answered
