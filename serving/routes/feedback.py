"""POST /feedback: whether an answer was right, from who learnt the truth."""

from collections.abc import Mapping
from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from serving.errors import InvalidRequestError, UnknownRequestError
from serving.json_values import shown
from serving.routes.json_bodies import read_json
from serving.schemas import ErrorAnswer
from serving.service import Service

_KEYS = ("request_id", "label", "labels")
_SCHEMA = {
    "type": "object",
    "required": ["request_id"],
    "properties": {
        "request_id": {"type": "string"},
        "label": {"type": "string"},
        "labels": {"type": "array", "items": {"type": "string"}},
    },
    "oneOf": [{"required": ["label"]}, {"required": ["labels"]}],
    "additionalProperties": False,
}
_REFUSED: dict[int | str, dict[str, Any]] = {"4XX": {"description": "Refused", "model": ErrorAnswer}}


def feedback(service: Service) -> APIRouter:
    """The route."""
    router = APIRouter(tags=["inference"], responses=_REFUSED)

    async def give(request: Request) -> Response:
        """Say what the right label of an earlier request's input is, or all of several."""
        body = await read_json(request, service.settings)
        for key in body:
            if key not in _KEYS:
                raise InvalidRequestError(f"body: unknown key {key!r}. Known: {', '.join(_KEYS)}.", field=key)
        request_id, truth = _text(body, "request_id"), _truth(body)
        given = service.lately.take(request_id)
        if given is None:
            raise UnknownRequestError(
                f"request_id: expected one that was answered with a label within {service.settings.feedback_ttl_s} s "
                f"and has no feedback yet, received {request_id!r}.",
                field="request_id",
            )
        if type(given.decided) is not type(truth):
            # It has no feedback yet.
            service.lately.keep(request_id, given)
            expected, received = ("label", "labels") if isinstance(given.decided, str) else ("labels", "label")
            raise InvalidRequestError(
                f"body: expected {expected!r}, as the request was answered with, received {received!r}.", field=received
            )
        correct = given.decided == truth
        service.metrics.record_feedback(
            model=given.model, version=given.version, correct=correct, is_routed=given.is_routed
        )
        answer = {"request_id": request_id, "correct": correct}
        return Response(orjson.dumps(answer), 202, media_type="application/json")

    content = {"requestBody": {"required": True, "content": {"application/json": {"schema": _SCHEMA}}}}
    router.post("/feedback", status_code=202, openapi_extra=content)(give)
    return router


def _truth(body: Mapping[str, Any]) -> str | frozenset[str]:
    if ("label" in body) == ("labels" in body):
        raise InvalidRequestError("body: expected 'label' or 'labels', received neither or both.", field="label")
    if "label" in body:
        return _text(body, "label")
    labels = body["labels"]
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise InvalidRequestError(f"labels: expected an array of strings, received {shown(labels)}.", field="labels")
    return frozenset(labels)


def _text(body: Mapping[str, Any], key: str) -> str:
    value = body.get(key)
    if not isinstance(value, str):
        raise InvalidRequestError(f"{key}: expected a string, received {shown(value)}.", field=key)
    return value
