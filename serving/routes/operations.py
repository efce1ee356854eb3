"""What people and monitoring read: the start page, health and metrics."""

from typing import Any

import orjson
from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST

from serving.routes.inputs import FORM_FIELDS, JSON_KEYS
from serving.routes.page import PAGE, read_files, static_files
from serving.schemas import HealthAnswer
from serving.service import Service

_IMAGE_EXAMPLE = "-F file=@image.png"
_TEXT_EXAMPLE = """-H 'Content-Type: application/json' -d '{"text": "..."}'"""
_ENDPOINTS = {
    **{
        f"POST {path}": f"images: multipart field {field!r}; texts: JSON with the key {JSON_KEYS[path]!r}"
        for path, field in FORM_FIELDS.items()
    },
    "POST /feedback": "whether an answer was right: JSON with the keys 'request_id' and 'label' or 'labels'",
    "GET /admin/models": "what is loaded and how requests are routed; the administration is at /docs",
    "GET /v2": "Open Inference Protocol, /v2/models/NAME/infer; TensorFlow Serving's REST, /v1/models/NAME:predict",
    "GET /health": "loading, ready or draining; 200 when ready, else 503",
    "GET /health/ready": "the same",
    "GET /health/live": "200 while the process answers",
    "GET /metrics": "Prometheus",
    "GET /drift": "what was asked of late, beside what the models were trained on",
    "GET /docs": "this API, as a page",
    "GET /openapi.json": "this API, for programs",
}


def operations(service: Service) -> APIRouter:
    """Routes about the state of one service."""
    router = APIRouter(tags=["operations"])
    files = read_files()

    async def health() -> Response:
        """Whether requests are taken."""
        status = service.health
        return _json({"status": status, "models": service.describe()}, 200 if status == "ready" else 503)

    async def live() -> Response:
        """Whether the process answers."""
        return _json({"status": "live"})

    def metrics() -> Response:
        """Metrics in Prometheus' text format."""
        return Response(service.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)

    async def index(request: Request) -> Response:
        """A page to ask the model and to watch the service; JSON for programs."""
        if "text/html" in request.headers.get("accept", ""):
            return files[PAGE].answer(request, vary="Accept")
        takes_texts = any(deployment.engine.takes == "text" for deployment in service.models)
        example = f"curl {_TEXT_EXAMPLE if takes_texts else _IMAGE_EXAMPLE} {request.base_url}predict"
        answer = _json({"models": service.describe(), "endpoints": _ENDPOINTS, "example": example})
        answer.headers["vary"] = "Accept"
        return answer

    not_ready: dict[int | str, dict[str, Any]] = {503: {"description": "Loading or draining", "model": HealthAnswer}}
    for path in ("/health", "/health/ready"):
        router.get(path, response_model=HealthAnswer, responses=not_ready, name=f"get{path}")(health)
    router.get("/health/live")(live)
    router.get("/metrics", response_class=Response)(metrics)
    router.get("/")(index)
    router.include_router(static_files(files))
    return router


def _json(content: dict[str, Any], status: int = 200) -> Response:
    return Response(orjson.dumps(content), status, media_type="application/json")
