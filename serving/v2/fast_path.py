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
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import httptools
import numpy as np

from serving.deployment import Deployment
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
from serving.v2.http_bodies import HEADER_LENGTH, write_infer
from serving.v2.inputs import ROWS
from serving.v2.json_header import Promised, read_header
from serving.v2.messages import InferRequest, Tensor
from serving.v2.outputs import check_outputs, given_names, outputs_of, wants_features
from serving.wanted import Wanted
from tfpipe.core.errors import TfpipeError
from tfpipe.core.signature import Array

_END_OF_HEAD = b"\r\n\r\n"
# Those that change nothing of an answer. What accepts a compressed one may be given one.
_PLAIN_HEADERS = frozenset((
    b"host", b"content-type", b"content-length", b"user-agent", b"accept", b"connection", b"authorization",
    b"x-api-key", HEADER_LENGTH,
))  # fmt: skip
_MOST_HEADS, _MOST_HEAD_BYTES = 256, 1024
# Larger bodies do not come in one piece, and are taken apart beside the event loop.
_MOST_BODY_BYTES = 64 * 1024
_ROWS_DATATYPE = "FP32"
# Neither escapes nor a query.
_PLAIN_PATH = re.compile(rb"/v2/models/([\w.-]+)(?:/versions/([\w.-]+))?/infer")
_BINARY = b"application/octet-stream"


class Connection(Protocol):
    """Where a request came from, and its answer goes."""

    def answer(self, headers: Sequence[tuple[bytes, bytes]], body: bytes) -> None:
        """Write an answer with status 200, and go on with what came meanwhile."""

    def go_the_long_way(self, data: bytes) -> None:
        """Take a request as if it came only now."""


@dataclass(slots=True)
class _Head:
    """What a head says that was seen before.

    Attributes:
        headers: By lower-case name.
        wanted: The model that is asked.
        num_bytes: Of the whole request.
        json_end: Where the tensors' bytes begin.
    """

    headers: Mapping[bytes, bytes]
    wanted: Wanted
    num_bytes: int
    json_end: int


@dataclass(slots=True)
class _Waiting:
    connection: Connection
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
        # None: a head that is known to need the long way.
        self._heads: dict[bytes, _Head | None] = {}
        self._waiting: dict[Deployment, list[_Waiting]] = {}

    def take(self, connection: Connection, data: bytes) -> bool:
        """Answer a request at the end of this turn of the event loop, if it is a plain one.

        Args:
            connection: It came alone on it.
            data: All that came.
        """
        came_s = time.monotonic()
        end = data.find(_END_OF_HEAD, 0, _MOST_HEAD_BYTES) + len(_END_OF_HEAD)
        if end < len(_END_OF_HEAD):
            return False
        text = data[:end]
        head = self._heads[text] if text in self._heads else self._learn(text)
        if head is None or head.num_bytes != len(data):
            return False
        found = self._service.find_plain(head.wanted)
        if found is None:
            return False
        deployment, way = found
        asked = _read(deployment, data, end, head.json_end)
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
        waiting.append(_Waiting(connection, data, *asked, way, caller, came_s, time.monotonic()))
        return True

    def _learn(self, text: bytes) -> _Head | None:
        head = _parsed(text, max_body_bytes=min(_MOST_BODY_BYTES, self._service.settings.max_body_bytes))
        if len(self._heads) == _MOST_HEADS:
            # Whoever sends another head each time gains nothing by it, and must not cost memory.
            self._heads.clear()
        self._heads[text] = head
        return head

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
        now_s = time.monotonic()
        stage_s = {
            "body": one.read_s - one.came_s, "queue": began_s - one.read_s, "run": run_s, "postprocess": now_s - done_s
        }  # fmt: skip
        headers = [
            (b"content-type", _BINARY),
            (b"content-length", str(len(body)).encode()),
            (b"x-request-id", next_id().encode()),
            (HEADER_LENGTH, str(length).encode()),
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
        one.connection.answer(headers, body)


def _parsed(text: bytes, *, max_body_bytes: int) -> _Head | None:
    """A head of a plain request; None of any other, an invalid one included."""
    head = _HeadParser()
    parser = httptools.HttpRequestParser(head)
    try:
        parser.feed_data(text)
    except httptools.HttpParserError:
        return None
    headers = dict(head.headers)
    is_plain = (
        parser.get_method() == b"POST"
        and parser.get_http_version() == "1.1"
        and parser.should_keep_alive()
        and headers.keys() <= _PLAIN_HEADERS
        and len(headers) == len(head.headers)
    )
    wanted = _wanted(head.url) if is_plain else None
    length, json_length = headers.get(b"content-length", b""), headers.get(HEADER_LENGTH, b"")
    if wanted is None or not (length.isdigit() and json_length.isdigit()):
        return None
    if not 0 < int(json_length) < int(length) <= max_body_bytes:
        return None
    return _Head(headers, wanted, len(text) + int(length), len(text) + int(json_length))


class _HeadParser:
    """Gathers what httptools reports."""

    def __init__(self) -> None:
        self.url = b""
        self.headers: list[tuple[bytes, bytes]] = []

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))


def _wanted(url: bytes) -> Wanted | None:
    found = _PLAIN_PATH.fullmatch(url)
    if found is None:
        return None
    name, version = found.groups()
    return Wanted(name.decode(), None if version is None else version.decode())


def _read(
    deployment: Deployment, data: bytes, start: int, json_end: int
) -> tuple[Engine, InferRequest, list[Array]] | None:
    """What is asked, and its rows; None where it is not one tensor of the model's rows, to be answered as bytes."""
    engine = deployment.engine
    if not isinstance(engine, Engine) or engine.takes != "image":
        return None
    try:
        header = read_header(data[start:json_end])
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
