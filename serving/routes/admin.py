"""Administration: what is loaded, which version answers, and changes of both."""

from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

import orjson
from fastapi import APIRouter, Request, Response

from serving.deployment import Deployment
from serving.errors import ConflictError, InvalidRequestError, RequestError
from serving.rollout import Rollout
from serving.routes.json_bodies import read_json
from serving.schemas import ErrorAnswer
from serving.service import Service
from tfpipe.core.errors import RegistryError, TfpipeError, TrackingError
from tfpipe.core.routing import Routing
from tfpipe.core.routing_changes import Origin, promote, rollback, split
from tfpipe.core.routing_json import from_dict, to_dict

T = TypeVar("T")
_SPLIT_KEYS = ("shares", "sticky", "shadow", "fallback", "who", "why")
_PROMOTE_KEYS = ("promote", "who", "why")
_ROLLBACK_KEYS = ("version", "who", "why")


def administration(service: Service, rollout: Rollout) -> APIRouter:
    """Routes that change which version answers; the gate lets nobody to them without the scope admin."""
    router = APIRouter(prefix="/admin/models", tags=["administration"], responses=_REFUSED)

    async def models() -> Response:
        """What is loaded, and how requests are routed."""
        return _json({"models": [_model(service, rollout, name) for name in service.models.names]})

    async def load(m: str, v: str) -> Response:
        """Load a version; it answers requests that name it, and others once it is given a share."""
        deployment = await changed(rollout.load(m, v))
        return _json({"model": m, "version": deployment.version, "loaded": True})

    async def unload(m: str, v: str) -> Response:
        """Unload a version that has no traffic."""
        await changed(rollout.unload(m, v))
        return _json({"model": m, "version": v, "loaded": False})

    async def route(m: str, request: Request) -> Response:
        """Divide traffic, promote a version, or go by a document that stands in the ledger."""
        body = await read_json(request, service.settings)
        if "slices" in body:
            routing = _document(m, body)
            return _json({"routing": to_dict(await changed(rollout.accept(routing)))})
        change = _promotion(body, request) if "promote" in body else _split(body, request)
        return _json({"routing": to_dict(await changed(rollout.change(m, change)))})

    async def roll_back(m: str, request: Request) -> Response:
        """Go back to an earlier version; the one left is refused until it is promoted again."""
        body = await read_json(request, service.settings, may_be_empty=True)
        _check_keys(body, _ROLLBACK_KEYS)
        version = _text_or_none(body, "version")
        by = _origin(body, request)
        return _json({"routing": to_dict(await changed(rollout.change(m, lambda held: rollback(held, by, version))))})

    router.get("", name="models")(models)
    router.post("/{m}/versions/{v}", name="load")(load)
    router.delete("/{m}/versions/{v}", name="unload")(unload)
    router.put("/{m}/routing", name="route", openapi_extra=_body(_ROUTING))(route)
    router.post("/{m}/rollback", name="roll_back", openapi_extra=_body(_ROLLBACK, required=False))(roll_back)
    return router


async def changed(change: Awaitable[T]) -> T:
    """What a change comes to, with its errors in the words of a request.

    Raises:
        RequestError: It is refused.
        TrackingError: The registry is away.
    """
    try:
        return await change
    except (RequestError, TrackingError):
        raise
    except RegistryError as error:
        raise InvalidRequestError(str(error)) from error
    except TfpipeError as error:
        # A version that fails its proof never takes traffic; the one before goes on.
        raise ConflictError(f"The version cannot be served: {error}") from error


def _model(service: Service, rollout: Rollout, name: str) -> dict[str, Any]:
    versions = [_version(one) for one in service.models if one.name == name]
    routing = service.models.routing(name)
    return {"name": name, "routing": to_dict(routing), "problem": rollout.problems.get(name), "versions": versions}


def _version(deployment: Deployment) -> dict[str, Any]:
    engine = deployment.engine
    return {
        "version": engine.version,
        "bundle": engine.bundle_id,
        "variant": engine.variant,
        "precision": engine.precision,
        "provider": engine.provider,
        "breaker": "open" if deployment.breaker.is_open else "closed",
    }


def _document(model: str, body: Mapping[str, Any]) -> Routing:
    try:
        routing = from_dict(dict(body), where="body")
    except RegistryError as error:
        raise InvalidRequestError(str(error)) from error
    if routing.model != model or routing.revision < 1:
        raise InvalidRequestError(
            f"body: expected a document of {model!r} that a ledger holds, received revision {routing.revision} of "
            f"{routing.model!r}.",
            field="model",
        )
    return routing


def _split(body: Mapping[str, Any], request: Request) -> Callable[[Routing], Routing]:
    _check_keys(body, _SPLIT_KEYS)
    shares = body.get("shares")
    if not isinstance(shares, dict) or not all(
        isinstance(share, int | float) and not isinstance(share, bool) for share in shares.values()
    ):
        raise InvalidRequestError(
            f"shares: expected an object of versions and shares that sum to 1, received {shares!r}.", field="shares"
        )
    sticky = body.get("sticky")
    if sticky not in (None, "key", "random"):
        raise InvalidRequestError(f"sticky: expected key or random, received {sticky!r}.", field="sticky")
    # null takes away what was there; a key that is not there leaves it.
    shadow, fallback = (_text_or_none(body, key, none="") if key in body else None for key in ("shadow", "fallback"))
    return partial(split, shares=shares, origin=_origin(body, request), sticky=sticky, shadow=shadow, fallback=fallback)


def _promotion(body: Mapping[str, Any], request: Request) -> Callable[[Routing], Routing]:
    _check_keys(body, _PROMOTE_KEYS)
    version = _text_or_none(body, "promote")
    if not version:
        raise InvalidRequestError("promote: expected a version, received none.", field="promote")
    return partial(promote, version=version, origin=_origin(body, request))


def _origin(body: Mapping[str, Any], request: Request) -> Origin:
    client = request.client.host if request.client else ""
    who, why = _text_or_none(body, "who") or f"admin@{client}", _text_or_none(body, "why") or ""
    try:
        return Origin(who, datetime.now(UTC), why)
    except RegistryError as error:
        raise InvalidRequestError(str(error)) from error


def _check_keys(body: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in body:
        if key not in known:
            raise InvalidRequestError(f"body: unknown key {key!r}. Known: {', '.join(known)}.", field=key)


def _text_or_none(body: Mapping[str, Any], key: str, *, none: str | None = None) -> str | None:
    value = body.get(key)
    if value is None:
        return none
    if not isinstance(value, str):
        raise InvalidRequestError(f"{key}: expected a string, received {value!r}.", field=key)
    return value


# Also keeps FastAPI from documenting a 422 that is never given.
_REFUSED: dict[int | str, dict[str, Any]] = {"4XX": {"description": "Refused", "model": ErrorAnswer}}
_TEXT: dict[str, Any] = {"type": "string"}
_NULLABLE: dict[str, Any] = {"type": ["string", "null"]}
_ROUTING: dict[str, Any] = {
    "type": "object",
    "properties": {
        "shares": {"type": "object", "additionalProperties": {"type": "number", "minimum": 0, "maximum": 1}},
        "sticky": {"enum": ["key", "random"]},
        "shadow": _NULLABLE,
        "fallback": _NULLABLE,
        "promote": _TEXT,
        "who": _TEXT,
        "why": _TEXT,
    },
}
_ROLLBACK: dict[str, Any] = {"type": "object", "properties": {"version": _NULLABLE, "who": _TEXT, "why": _TEXT}}


def _body(schema: dict[str, Any], *, required: bool = True) -> dict[str, Any]:
    return {"requestBody": {"required": required, "content": {"application/json": {"schema": schema}}}}


def _json(content: dict[str, Any], status: int = 200) -> Response:
    return Response(orjson.dumps(content), status, media_type="application/json")
