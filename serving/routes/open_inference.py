"""/v2: the Open Inference Protocol over HTTP, with Triton's extensions.

Source: KServe, Open Inference Protocol v2; Triton, "HTTP/REST and GRPC Protocol" and its extensions.
"""

from collections.abc import Sequence
from typing import Any

import orjson
from starlette.types import Receive

from serving.bodies import read_body
from serving.deployment import Deployment
from serving.errors import InvalidRequestError, UnknownPathError
from serving.json_values import name_of, read_object, shown
from serving.request import Request
from serving.rollout import Rollout
from serving.routes.answers import Answer
from serving.routes.choice import Choice
from serving.routes.inference import Asked, check_method
from serving.service import Service
from serving.v2.asking import ask
from serving.v2.documents import model_config, model_metadata, server_metadata
from serving.v2.http_bodies import bytes_to_read, read_infer, write_infer
from serving.v2.inputs import raw_inputs
from serving.v2.messages import InferRequest
from serving.v2.repository import Verb, change_repository
from serving.v2.statistics import model_statistics, repository_index
from serving.wanted import Wanted

# Known to Triton's clients, and not there.
_REFUSED = ("systemsharedmemory", "cudasharedmemory", "trace", "logging")
_MAX_SMALL_BODY_BYTES = 64 * 1024


class OpenInferenceRoutes:
    """The handler of every path under /v2."""

    def __init__(self, service: Service, rollout: Rollout) -> None:
        self._service, self._rollout = service, rollout

    async def handle(self, request: Request, receive: Receive) -> Answer:
        """Answer a request.

        Raises:
            RequestError: It is refused.
            DecodeError: An image cannot be read.
            InferenceError: The model failed.
        """
        parts = request.path.split("/")[2:]
        if parts[-1:] == ["infer"] and parts[0] == "models":
            return await self._infer(_wanted(request, parts[1:-1]), request, receive)
        match parts:
            case [] | [""]:
                return self._document(request, server_metadata())
            case ["health", "live"]:
                return self._document(request, {"live": True})
            case ["health", "ready"]:
                is_ready = self._service.health == "ready"
                return self._document(request, {"ready": is_ready}, 200 if is_ready else 503)
            case ["repository", *rest]:
                return await self._repository(rest, request, receive)
            case ["models", "stats"]:
                return self._document(request, self._statistics(list(self._service.models)))
            case ["models", *rest] if rest and "trace" not in rest:
                return self._of_model(rest, request)
        if parts[0] in _REFUSED or "trace" in parts:
            raise InvalidRequestError(f"{request.path}: expected another path, as the service has no {parts[0]} calls.")
        raise _unknown(request)

    async def _infer(self, wanted: Wanted, request: Request, receive: Receive) -> Answer:
        check_method(request, "POST")
        choice, asked = Choice(self._service, request, wanted), Asked(self._service, request)

        def read() -> InferRequest:
            return read_infer(request.headers, body, inputs=raw_inputs(choice.deployment.engine))

        with asked.patience:
            body = await asked.body(receive, choice)
            num_bytes = bytes_to_read(request.headers, body)
            inference = await asked.work(num_bytes, read)
            if choice.settle(inference.routing_key):
                inference = await asked.work(num_bytes, read)
            deployment, engine = choice.deployment, choice.deployment.engine
            asked.shorten(inference.timeout_s)
            outputs = await ask(
                deployment,
                inference,
                deadline_s=asked.deadline_s,
                max_image_pixels=self._service.settings.max_image_pixels,
                stage_s=asked.stage_s,
            )
        content, length = write_infer(
            model_name=engine.name, model_version=engine.version, request=inference, outputs=outputs
        )
        if length is None:
            return await asked.answer(engine, content)
        headers = [(b"inference-header-content-length", str(length).encode())]
        return await asked.answer(engine, content, headers, media=b"application/octet-stream")

    def _of_model(self, parts: Sequence[str], request: Request) -> Answer:
        last = parts[-1] if parts[-1] in ("ready", "config", "stats") and len(parts) > 1 else ""
        wanted = _wanted(request, parts[:-1] if last else parts)
        deployment = self._service.look_up(wanted)
        request.deployment = deployment
        of_name = [one for one in self._service.models if one.name == deployment.name]
        if last == "ready":
            is_up = deployment.is_up
            return self._document(request, {"name": deployment.name, "ready": is_up}, 200 if is_up else 503)
        if last == "config":
            settings = self._service.settings
            return self._document(request, model_config(deployment.engine, max_batch_size=settings.max_batch_size))
        if last == "stats":
            return self._document(request, self._statistics([deployment] if wanted.version else of_name))
        versions = [one.version for one in of_name if one.version is not None]
        return self._document(request, model_metadata(deployment.engine, versions))

    async def _repository(self, parts: Sequence[str], request: Request, receive: Receive) -> Answer:
        match parts:
            case ["index"]:
                check_method(request, "POST")
                ready = (await self._small_body(request, receive)).get("ready", False)
                if not isinstance(ready, bool):
                    raise InvalidRequestError(f"ready: expected true or false, received {shown(ready)}.")
                return self._json(repository_index(self._service, ready_only=ready))
            case ["models", *names, "load" | "unload" as verb] if names:
                check_method(request, "POST")
                await self._change("load" if verb == "load" else "unload", "/".join(names), request, receive)
                return self._json({})
        raise _unknown(request)

    async def _change(self, verb: Verb, name: str, request: Request, receive: Receive) -> None:
        body = await self._small_body(request, receive)
        for key in body:
            if key != "parameters":
                raise InvalidRequestError(f"body: unknown key {shown(key)}. Known: parameters.")
        parameters = body.get("parameters")
        if parameters is None:
            parameters = {}
        if not isinstance(parameters, dict):
            raise InvalidRequestError(f"parameters: expected an object, received {name_of(parameters)}.")
        await change_repository(self._service, self._rollout, verb, name, parameters)

    async def _small_body(self, request: Request, receive: Receive) -> dict[str, Any]:
        settings = self._service.settings
        body = await read_body(
            request.headers,
            receive,
            max_bytes=min(_MAX_SMALL_BODY_BYTES, settings.max_body_bytes),
            timeout_s=settings.body_timeout_ms / 1000,
        )
        return read_object(body) if body.strip() else {}

    def _statistics(self, deployments: Sequence[Deployment]) -> dict[str, Any]:
        return {"model_stats": [model_statistics(self._service, one) for one in deployments]}

    def _document(self, request: Request, content: Any, status: int = 200) -> Answer:
        check_method(request, "GET")
        return self._json(content, status)

    def _json(self, content: Any, status: int = 200) -> Answer:
        return Answer(status, orjson.dumps(content))


def _wanted(request: Request, parts: Sequence[str]) -> Wanted:
    """`NAME` or `NAME/versions/VERSION`."""
    if len(parts) == 1 and parts[0]:
        return Wanted(parts[0])
    if len(parts) == 3 and parts[0] and parts[1] == "versions" and parts[2]:
        return Wanted(parts[0], parts[2])
    raise _unknown(request)


def _unknown(request: Request) -> UnknownPathError:
    return UnknownPathError(
        f"{request.path[:200]}: no such path. Those of the Open Inference Protocol are /v2, /v2/health/live, "
        "/v2/health/ready, /v2/models/NAME[/versions/VERSION][/ready|/infer|/config|/stats], /v2/repository/index and "
        "/v2/repository/models/NAME/versions/VERSION/load|unload.",
        path=request.path[:200],
    )
