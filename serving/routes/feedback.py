"""POST /feedback: whether an answer was right, from who learnt the truth."""

from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from serving.errors import InvalidRequestError, UnknownRequestError
from serving.routes.json_bodies import read_json
from serving.schemas import ErrorAnswer
from serving.service import Service

_KEYS = ("request_id", "label")
_SCHEMA = {
    "type": "object",
    "required": list(_KEYS),
    "properties": {"request_id": {"type": "string"}, "label": {"type": "string"}},
    "additionalProperties": False,
}
_REFUSED: dict[int | str, dict[str, Any]] = {"4XX": {"description": "Refused", "model": ErrorAnswer}}


def feedback(service: Service) -> APIRouter:
    """The route."""
    router = APIRouter(tags=["inference"], responses=_REFUSED)

    async def give(request: Request) -> Response:
        """Say what the right label of an earlier request's input is."""
        body = await read_json(request, service.settings)
        for key in body:
            if key not in _KEYS:
                raise InvalidRequestError(f"body: unknown key {key!r}. Known: {', '.join(_KEYS)}.", field=key)
        for key in _KEYS:
            if not isinstance(body.get(key), str):
                raise InvalidRequestError(f"{key}: expected a string, received {body.get(key)!r}.", field=key)
        given = service.lately.take(body["request_id"])
        if given is None:
            raise UnknownRequestError(
                f"request_id: expected one that was answered with a label within {service.settings.feedback_ttl_s} s "
                f"and has no feedback yet, received {body['request_id']!r}.",
                field="request_id",
            )
        correct = given.label == body["label"]
        service.metrics.record_feedback(model=given.model, version=given.version, correct=correct)
        answer = {"request_id": body["request_id"], "correct": correct}
        return Response(orjson.dumps(answer), 202, media_type="application/json")

    content = {"requestBody": {"required": True, "content": {"application/json": {"schema": _SCHEMA}}}}
    router.post("/feedback", status_code=202, openapi_extra=content)(give)
    return router
