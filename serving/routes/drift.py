"""GET /drift: what each version was asked of late, beside what it was trained on."""

from typing import Any

import orjson
from fastapi import APIRouter, Response

from serving.drift import DriftWatch
from serving.schemas import ErrorAnswer
from serving.service import Service

_REFUSED: dict[int | str, dict[str, Any]] = {"4XX": {"description": "Refused", "model": ErrorAnswer}}


def drift(service: Service) -> APIRouter:
    """The route; who may predict may ask it: it holds counts, and no input."""
    router = APIRouter(tags=["operations"], responses=_REFUSED)

    def compared() -> Response:
        """Histograms of the newest rows and of the training data, by feature, and how far apart they are."""
        models = [_model(*who, watch) for who, watch in service.drifts()]
        return Response(orjson.dumps({"models": models}), media_type="application/json")

    router.get("/drift", name="drift")(compared)
    return router


def _model(name: str, version: str, watch: DriftWatch) -> dict[str, Any]:
    statistics = watch.statistics
    return {
        "model": name,
        "version": version,
        "inputs_from": "" if statistics is None else statistics.inputs_from,
        "predictions_from": "" if statistics is None else statistics.predictions_from,
        "odd_inputs": watch.odd(),
        "features": [reading.to_dict() for reading in watch.readings()],
    }
