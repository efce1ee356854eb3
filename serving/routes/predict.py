"""Our own protocol: POST /predict and POST /predict/batch."""

import asyncio
import time
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import orjson
from starlette.types import Receive

from serving.bodies import read_body
from serving.engine import Engine, Outcome
from serving.errors import DeadlineError, RowsFailedError
from serving.parameters import check_model, read_parameters, timeout_s
from serving.request import Request
from serving.routes.answers import Answer, error_body, record_error, status_of
from serving.routes.inputs import check_media, read_inputs
from serving.service import Service
from serving.tensor_engine import TensorEngine


@dataclass(frozen=True)
class _Job:
    """A request whose body is there."""

    request: Request
    engine: Engine
    body: bytes
    deadline_s: float
    features: bool
    body_s: float
    submitted_s: float


class PredictRoutes:
    """The handler of both paths."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def predict(self, request: Request, receive: Receive) -> Answer:
        """Answer one input, or several, by the path of the request.

        Raises:
            RequestError: The request is refused.
            DecodeError: The one image cannot be read.
            InferenceError: The model failed on the one input.
        """
        settings = self._service.settings
        engine = self._service.require_engine()
        parameters = read_parameters(request.query)
        check_model(engine, parameters)
        if isinstance(engine, TensorEngine):
            raise engine.refuse(request.path)
        check_media(engine, request)
        limit_s = timeout_s(request, parameters, longest_s=settings.timeout_ms / 1000)
        deadline_s = request.started_s + limit_s
        try:
            async with asyncio.timeout(deadline_s - time.monotonic()):
                body = await read_body(
                    request.headers,
                    receive,
                    max_bytes=settings.max_body_bytes,
                    timeout_s=settings.body_timeout_ms / 1000,
                )
                now = time.monotonic()
                features = parameters.get("features") == "true"
                job = _Job(request, engine, body, deadline_s, features, now - request.started_s, now)
                return await self._service.run(partial(self._work, job))
        except TimeoutError:
            raise DeadlineError(
                f"deadline: expected an answer within {limit_s * 1000:g} ms, there was none.",
                timeout_ms=limit_s * 1000,
            ) from None

    def _work(self, job: _Job) -> Answer:
        """All that takes time, in one thread, as a hop costs more than a small model."""
        started_s = time.monotonic()
        inputs = read_inputs(job.engine, job.request, job.body)
        outcome = job.engine.predict(inputs, deadline_s=job.deadline_s, features=job.features)
        stages = {"body": job.body_s, "queue": started_s - job.submitted_s, **outcome.stage_s}
        for stage, seconds in stages.items():
            self._service.metrics.record_stage(**self._service.labels, stage=stage, latency_s=seconds)
        for rows in outcome.batches:
            self._service.metrics.record_batch(rows)
        if job.request.path == "/predict" and isinstance(outcome.rows[0], Exception):
            raise outcome.rows[0]
        return self._assemble(job, outcome, stages)

    def _assemble(self, job: _Job, outcome: Outcome, stages: Mapping[str, float]) -> Answer:
        request, engine = job.request, job.engine
        statuses: list[int] = []
        predictions: list[dict[str, Any]] = []
        for index, row in enumerate(outcome.rows):
            if isinstance(row, Exception):
                statuses.append(record_error(row, request, self._service, row=index)[0])
                predictions.append({"error": error_body(row, request.id)})
            else:
                predictions.append(row)
        total_s = time.monotonic() - request.started_s
        content: dict[str, Any] = {
            "predictions": predictions,
            "model_name": engine.name,
            "model_version": engine.version,
            "precision": engine.precision,
            "provider": engine.provider,
            "bundle": engine.bundle_id,
            "latency_ms": round(total_s * 1000, 3),
            "request_id": request.id,
        }
        status = 200
        if len(statuses) == len(predictions):
            failed = RowsFailedError(f"batch: expected one input or more to be answered, all {len(statuses)} failed.")
            content["error"] = error_body(failed, request.id)
            # The client's doing, unless not one of the failures is.
            status = status_of(failed)[0] if min(statuses) < 500 else max(statuses)
        return Answer(status, orjson.dumps(content), _headers(engine, {**stages, "total": total_s}))


def _headers(engine: Engine, stages: Mapping[str, float]) -> list[tuple[bytes, bytes]]:
    timing = ", ".join(f"{stage};dur={seconds * 1000:.3f}" for stage, seconds in stages.items())
    headers = [
        # Names may hold any letters, headers only ASCII.
        (b"x-model-name", urllib.parse.quote(engine.name, safe=" ").encode()),
        (b"x-model-precision", engine.precision.encode()),
        (b"server-timing", timing.encode()),
    ]
    if engine.version is not None:
        headers.append((b"x-model-version", engine.version.encode()))
    return headers
