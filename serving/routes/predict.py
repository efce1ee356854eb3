"""Our own protocol: POST /predict and POST /predict/batch."""

import time
from collections.abc import Mapping
from typing import Any

import orjson
from starlette.types import Receive

from serving.deployment import Outcome
from serving.engine import Answered, Engine
from serving.errors import MethodError, RowsFailedError, UnknownPathError
from serving.feedback import Given
from serving.parameters import read_parameters, wanted_of, wants_features
from serving.request import Request
from serving.routes.answers import Answer, error_body, headers_of, record_error, status_of
from serving.routes.choice import Choice
from serving.routes.inference import Asked
from serving.routes.inputs import FORM_FIELDS, check_media, read_posted
from serving.runs import AnyEngine
from serving.service import Service
from serving.shadow import decision_of
from serving.tensor_engine import TensorEngine
from tfpipe.core.errors import InferenceError


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
        parameters = read_parameters(request.query)
        choice = Choice(self._service, request, wanted_of(parameters))
        engine, features = _checked(choice, request, parameters)
        asked = Asked(self._service, request, parameters)
        with asked.patience:
            body = await asked.body(receive, choice)
            given = await asked.work(len(body), lambda: read_posted(engine, request, body))
            if choice.settle(given.routing_key):
                engine, features = _checked(choice, request, parameters)
                given = await asked.work(len(body), lambda: read_posted(engine, request, body))
            deployment = choice.deployment
            outcome = await deployment.infer(given.inputs, deadline_s=asked.deadline_s, features=features)
        asked.stage_s.update(outcome.stage_s)
        return self._assemble(request, deployment.engine, outcome)

    def _assemble(self, request: Request, engine: AnyEngine, outcome: Outcome) -> Answer:
        began_s = time.monotonic()
        rows = [answer_of(row) for row in outcome.rows]
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
        request.stage_s["postprocess"] = now_s - began_s
        total_s = now_s - request.started_s
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
        return Answer(status, orjson.dumps(content), headers_of(engine, request.stage_s, total_s))


def _checked(choice: Choice, request: Request, parameters: Mapping[str, str]) -> tuple[Engine, bool]:
    """The engine of the version chosen, and whether features are wanted of it, where it takes such requests."""
    engine = choice.deployment.engine
    if isinstance(engine, TensorEngine):
        raise engine.refuse(request.path)
    features = wants_features(engine, parameters)
    check_media(engine, request)
    return engine, features


def answer_of(row: Answered | Exception) -> dict[str, Any] | Exception:
    """A row's answer, or the error in its place."""
    if isinstance(row, Exception):
        return row
    try:
        return row.answer()
    except InferenceError as error:
        return error
