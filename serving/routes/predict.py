"""Our own protocol: POST /predict and POST /predict/batch."""

import asyncio
import time
import urllib.parse
from collections.abc import Mapping
from typing import Any

import orjson
from starlette.types import Receive

from serving.bodies import hang_up_watched, read_body
from serving.deployment import Outcome
from serving.engine import Answered, Engine
from serving.errors import DeadlineError, MethodError, RowsFailedError, UnknownPathError
from serving.feedback import Given
from serving.parameters import read_parameters, timeout_s, wanted_of, wants_features
from serving.request import Request
from serving.routes.answers import Answer, error_body, record_error, status_of
from serving.routes.inputs import FORM_FIELDS, check_media, read_inputs
from serving.service import Service
from serving.shadow import decision_of
from serving.tensor_engine import TensorEngine
from tfpipe.core.errors import InferenceError

# Bodies so small are taken apart in the event loop: a thread would cost more.
_SMALL_BYTES = 64 * 1024


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
        if request.path not in FORM_FIELDS:
            raise UnknownPathError(
                f"{request.path}: no such path. GET / lists those that there are.", path=request.path
            )
        if request.method != "POST":
            raise MethodError(f"{request.path}: expected POST, received {request.method}.", allowed=["POST"])
        settings = self._service.settings
        parameters = read_parameters(request.query)
        deployment = self._service.find(wanted_of(parameters), request)
        engine = deployment.engine
        if isinstance(engine, TensorEngine):
            raise engine.refuse(request.path)
        features = wants_features(engine, parameters)
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
                body_s = time.monotonic() - request.started_s
                async with hang_up_watched(receive):
                    if len(body) <= _SMALL_BYTES:
                        inputs = read_inputs(engine, request, body)
                    else:
                        inputs = await self._service.run(lambda: read_inputs(engine, request, body))
                    outcome = await deployment.infer(inputs, deadline_s=deadline_s, features=features)
        except TimeoutError:
            raise DeadlineError(
                f"deadline: expected an answer within {limit_s * 1000:g} ms, there was none.",
                timeout_ms=limit_s * 1000,
            ) from None
        return self._assemble(request, engine, outcome, {"body": body_s, **outcome.stage_s})

    def _assemble(self, request: Request, engine: Engine, outcome: Outcome, stage_s: dict[str, float]) -> Answer:
        began_s = time.monotonic()
        rows = [_answer(row) for row in outcome.rows]
        if request.path == "/predict" and isinstance(rows[0], Exception):
            raise rows[0]
        statuses: list[int] = []
        predictions: list[dict[str, Any]] = []
        for index, row in enumerate(rows):
            if isinstance(row, Exception):
                statuses.append(record_error(row, request, self._service, row=index)[0])
                predictions.append({"error": error_body(row, request.id)})
            else:
                predictions.append(row)
        now_s = time.monotonic()
        stage_s["postprocess"] = now_s - began_s
        total_s = now_s - request.started_s
        request.stage_s = stage_s
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
        decided = decision_of(predictions[0]) if len(predictions) == 1 and not statuses else None
        if isinstance(decided, str | frozenset):
            labels = self._service.labels_of(request.deployment)
            self._service.lately.keep(request.id, Given(**labels, decided=decided, is_routed=request.is_routed))
        status = 200
        if len(statuses) == len(predictions):
            failed = RowsFailedError(f"batch: expected one input or more to be answered, all {len(statuses)} failed.")
            content["error"] = error_body(failed, request.id)
            # The client's doing, unless not one of the failures is.
            status = status_of(failed)[0] if min(statuses) < 500 else max(statuses)
        return Answer(status, orjson.dumps(content), headers_of(engine, {**stage_s, "total": total_s}))


def headers_of(engine: Engine | TensorEngine, stage_s: Mapping[str, float]) -> list[tuple[bytes, bytes]]:
    """What answered, and how long each stage took. Source: W3C, "Server Timing"."""
    timing = ", ".join(f"{stage};dur={seconds * 1000:.3f}" for stage, seconds in stage_s.items())
    headers = [
        # Names may hold any letters, headers only ASCII.
        (b"x-model-name", urllib.parse.quote(engine.name, safe=" ").encode()),
        (b"x-model-precision", engine.precision.encode()),
        (b"server-timing", timing.encode()),
    ]
    if engine.version is not None:
        headers.append((b"x-model-version", engine.version.encode()))
    return headers


def _answer(row: Answered | Exception) -> dict[str, Any] | Exception:
    if isinstance(row, Exception):
        return row
    try:
        return row.answer()
    except InferenceError as error:
        return error
