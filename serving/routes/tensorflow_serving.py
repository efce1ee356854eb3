"""/v1: TensorFlow Serving's REST.

Source: TensorFlow Serving, "RESTful API".
"""

import time
from collections.abc import Mapping, Sequence

import orjson
from starlette.types import Receive

from serving.deployment import Deployment
from serving.errors import InvalidRequestError, UnknownModelError, UnknownPathError
from serving.request import Request
from serving.routes.answers import Answer
from serving.routes.choice import Choice, Find
from serving.routes.inference import Asked, check_method
from serving.runs import AnyEngine
from serving.service import Service
from serving.tensor_engine import TensorEngine
from serving.tfserving.answers import (
    check_classifies,
    columns_of,
    model_metadata,
    model_status,
    write_classify,
    write_predict,
)
from serving.tfserving.inputs import feeds_of, inputs_of
from serving.tfserving.requests import PredictRequest, read_classify, read_predict
from serving.wanted import Wanted
from tfpipe.core.signature import Array

_VERBS = ("predict", "classify", "regress")
# What an export calls the version of a model that is not registered.
_UNREGISTERED = "1"


class TensorFlowServingRoutes:
    """The handler of every path under /v1."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def handle(self, request: Request, receive: Receive) -> Answer:
        """Answer a request.

        Raises:
            RequestError: It is refused.
            DecodeError: An image cannot be read.
            InferenceError: The model failed.
        """
        parts = request.path.split("/")[2:]
        if parts[:1] != ["models"]:
            raise _unknown(request)
        last, colon, verb = parts[-1].rpartition(":")
        if colon and verb in _VERBS:
            return await self._ask(_wanted(request, [*parts[1:-1], last]), verb, request, receive)
        check_method(request, "GET")
        if parts[-1] == "metadata" and len(parts) > 2:
            request.deployment = deployment = _resolved(_wanted(request, parts[1:-1]), self._service.look_up)
            return Answer(200, orjson.dumps(model_metadata(deployment.engine)))
        return self._status(_wanted(request, parts[1:]), request)

    async def _ask(self, wanted: Wanted, verb: str, request: Request, receive: Receive) -> Answer:
        check_method(request, "POST")
        choice, asked = Choice(self._service, request, wanted, resolve=_resolved), Asked(self._service, request)
        _check_verb(verb, choice.deployment.engine)

        def read() -> PredictRequest:
            engine = choice.deployment.engine
            return read_predict(engine, body) if verb == "predict" else read_classify(engine, body)

        with asked.patience:
            body = await asked.body(receive, choice)
            wish = await asked.work(len(body), read)
            if choice.settle(wish.routing_key):
                _check_verb(verb, choice.deployment.engine)
                wish = await asked.work(len(body), read)
            deployment, engine = choice.deployment, choice.deployment.engine
            if isinstance(engine, TensorEngine):
                columns = await self._tensors(deployment, engine, wish, asked)
                return await asked.answer(engine, write_predict(columns, in_rows=wish.in_rows))
            inputs = inputs_of(engine, wish, max_image_pixels=self._service.settings.max_image_pixels)
            outcome = await deployment.infer(inputs, deadline_s=asked.deadline_s)
        asked.stage_s.update(outcome.stage_s)
        began_s = time.monotonic()
        rows = outcome.all_answered()
        if verb == "classify":
            content = write_classify(engine, rows)
        else:
            content = write_predict(columns_of(engine, rows), in_rows=wish.in_rows)
        asked.stage_s["postprocess"] = time.monotonic() - began_s
        return await asked.answer(engine, content)

    async def _tensors(
        self, deployment: Deployment, engine: TensorEngine, wish: PredictRequest, asked: Asked
    ) -> Mapping[str, Array]:
        arrays, seconds = await deployment.infer_tensors(feeds_of(engine, wish), None, deadline_s=asked.deadline_s)
        asked.stage_s.update(seconds)
        return arrays

    def _status(self, wanted: Wanted, request: Request) -> Answer:
        # Known by name even while draining: a client asks why it is refused.
        of_name = [one for one in self._service.models if one.name == wanted.name]
        if not of_name or wanted.version is not None or wanted.alias is not None:
            of_name = [_resolved(wanted, self._service.look_up)]
        request.deployment = of_name[0]
        states = [(one.version or _UNREGISTERED, self._state(one), "") for one in of_name]
        return Answer(200, orjson.dumps(model_status(states)))

    def _state(self, deployment: Deployment) -> str:
        # A process that ended is about to be there again.
        status = "loading" if self._service.status == "ready" and not deployment.is_up else self._service.status
        return {"ready": "AVAILABLE", "loading": "LOADING", "draining": "UNLOADING"}[status]


def _resolved(wanted: Wanted, find: Find) -> Deployment:
    """A version as it is named; version 1 is that of a model which has none."""
    try:
        return find(wanted)
    except UnknownModelError:
        if wanted.version != _UNREGISTERED:
            raise
        deployment = find(Wanted(wanted.name))
        if deployment.version is not None:
            raise
        return deployment


def _check_verb(verb: str, engine: AnyEngine) -> None:
    if verb == "regress":
        raise InvalidRequestError(f":regress: expected a model with a regress signature; {engine.name!r} has none.")
    if verb == "classify":
        check_classifies(engine)


def _wanted(request: Request, parts: Sequence[str]) -> Wanted:
    """`NAME`, `NAME/versions/VERSION` or `NAME/labels/ALIAS`."""
    match parts:
        case [str(name)] if name:
            return Wanted(name)
        case [str(name), "versions", str(version)] if name and version:
            return Wanted(name, version=version)
        case [str(name), "labels", str(label)] if name and label:
            return Wanted(name, alias=label)
    raise _unknown(request)


def _unknown(request: Request) -> UnknownPathError:
    return UnknownPathError(
        f"{request.path[:200]}: no such path. TensorFlow Serving's are /v1/models/NAME[/versions/VERSION|/labels/LABEL]"
        "[:predict|:classify|/metadata].",
        path=request.path[:200],
    )
