"""Bodies of answers and the OpenAPI entries of the inference paths, which FastAPI's router does not see."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from serving.parameters import PARAMETERS

_ERROR_EXAMPLE = {
    "error": {
        "code": "undecodable_image",
        "message": "image: expected a JPEG, PNG, BMP, GIF or WebP file, received 5 bytes that begin with b'hello'.",
        "details": {},
        "request_id": "5d1f3c0a9b8e4f6d8a7b6c5d4e3f2a1b",
    }
}
_ANSWER_EXAMPLE = {
    "predictions": [{"label": "seven", "score": 0.98, "probabilities": {"seven": 0.98, "one": 0.02}}],
    "model_name": "digits",
    "model_version": "3",
    "precision": "int8",
    "provider": "cpu",
    "bundle": "0f3a9c81d2e4",
    "latency_ms": 1.84,
    "request_id": "5d1f3c0a9b8e4f6d8a7b6c5d4e3f2a1b",
}
_PARAMETER_TEXTS = {
    "model_name": "Refuse to answer (404) unless this is the model.",
    "model_version": "Refuse to answer (404) unless this is the version.",
    "alias": "Refuse to answer (404) unless the version has this alias.",
    "timeout_ms": "Answer 504 after so many milliseconds; X-Timeout-Ms means the same.",
    "features": "Embeddings beside the answer; false unless the bundle gives them.",
}
_FAILURES = {
    "400": "Malformed, undecodable, or an unknown parameter",
    "404": "Another model, version or alias than the one served",
    "408": "The body came too slowly",
    "413": "Body, image or batch too large",
    "415": "The model or path does not take this content type",
    "500": "The service failed",
    "503": "Loading, draining, or out of memory",
    "504": "Deadline",
}


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class ErrorDetail(_Body):
    """Why a request, or one row of a batch, was not answered."""

    code: str = Field(description="Stable name of the kind of error.")
    message: str = Field(description="One sentence: where, what was expected, what was received.")
    details: dict[str, Any] = Field(description="Facts of the message, for programs.")
    request_id: str


class ErrorAnswer(_Body):
    """Body of every error."""

    error: ErrorDetail


class Prediction(_Body):
    """Answer to one image."""

    label: str = Field(description="The most probable class.")
    score: float = Field(description="Its probability.")
    probabilities: dict[str, float] = Field(description="Of every class, most probable first.")


class PredictAnswer(_Body):
    """Answer to one request; in a batch a row that failed has its error in its place."""

    predictions: list[Prediction | ErrorAnswer]
    model_name: str
    model_version: str | None = Field(description="Registered version; null for a model that is not registered.")
    precision: str
    provider: str = Field(description="What ran the model.")
    bundle: str = Field(description="First 12 hex digits of the bundle's sha256.")
    latency_ms: float = Field(description="From the request's arrival to its answer, in the service.")
    request_id: str
    error: ErrorDetail | None = Field(None, description="Only where every row failed.")


class HealthAnswer(_Body):
    """State of the service."""

    status: str = Field(description="loading, ready or draining")
    models: list[dict[str, Any]]


def inference_paths() -> dict[str, Any]:
    """OpenAPI path items of /predict and /predict/batch."""
    image = {"type": "string", "format": "binary"}
    one = {
        "multipart/form-data": {"schema": _form({"file": image})},
        "image/*": {"schema": image},
        "application/octet-stream": {"schema": image},
    }
    several = {"multipart/form-data": {"schema": _form({"files": {"type": "array", "items": image}})}}
    return {
        "/predict": {"post": _operation("Classify one image", "The body is the image, or a form with it.", one)},
        "/predict/batch": {
            "post": _operation(
                "Classify several images",
                "Answers come in the order of the files. One that fails has its error in its place and the others are "
                "answered; 400 where all fail.",
                several,
            )
        },
    }


def components() -> dict[str, Any]:
    """OpenAPI schemas that the entries refer to."""
    schemas: dict[str, Any] = {}
    for model in (PredictAnswer, ErrorAnswer):
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}", mode="serialization")
        schemas |= schema.pop("$defs", {})
        schemas[model.__name__] = schema
    return schemas


def _operation(summary: str, description: str, content: dict[str, Any]) -> dict[str, Any]:
    failures = {
        status: {"description": text, "content": _json("ErrorAnswer", _ERROR_EXAMPLE)}
        for status, text in _FAILURES.items()
    }
    return {
        "tags": ["inference"],
        "summary": summary,
        "description": description,
        "operationId": summary.lower().replace(" ", "_"),
        "parameters": [_parameter(name) for name in PARAMETERS],
        "requestBody": {"required": True, "content": content},
        "responses": {
            "200": {"description": "Answered", "content": _json("PredictAnswer", _ANSWER_EXAMPLE)},
            **failures,
        },
    }


def _parameter(name: str) -> dict[str, Any]:
    kind = {"timeout_ms": "number", "features": "boolean"}.get(name, "string")
    return {"name": name, "in": "query", "description": _PARAMETER_TEXTS[name], "schema": {"type": kind}}


def _form(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _json(schema: str, example: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}, "example": example}}
