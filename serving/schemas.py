"""Bodies of answers and the OpenAPI entries of the inference paths, which FastAPI's router does not see."""

from collections.abc import Collection
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from serving.parameters import PARAMETERS, ROUTING_KEY
from serving.routes.inputs import MAX_INPUTS

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
    "features": "The vector before the model's head beside each answer; for bundles of conversion.features=true.",
}
KEY_SCHEMA = {
    "type": "string",
    "description": "Where traffic is split, the same key has the same version; X-Routing-Key means the same.",
}
FAILURES = {
    "400": "Malformed, undecodable, or an unknown parameter",
    "401": "No API key, or one that is not known, where the service has keys",
    "403": "The key has not the scope",
    "404": "Another model, version or alias than the one served",
    "408": "The body came too slowly",
    "413": "Body, image, text or batch too large",
    "415": "The path does not take this content type or encoding",
    "429": "The queue is full, or the key asks too often or too much at once; Retry-After says when to ask again",
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
    """Answer to one image or text that is of one class."""

    label: str = Field(description="The most probable class.")
    score: float = Field(description="Its probability.")
    probabilities: dict[str, float] = Field(description="Of every class, most probable first.")
    features: list[float] | None = Field(None, description="Only with features=true: the vector before the head.")


class Label(_Body):
    """One of several classes that a text may have."""

    label: str
    score: float = Field(description="Its probability.")


class Labels(_Body):
    """Answer to one text that may have several classes or none."""

    labels: list[Label] = Field(description="Those of at least 0.5, most probable first.")
    probabilities: dict[str, float] = Field(description="Of every class, most probable first.")
    features: list[float] | None = Field(None, description="Only with features=true: the vector before the head.")


class Entity(_Body):
    """A name or other thing that a text mentions."""

    text: str = Field(description="As it stands in the text that was sent.")
    label: str = Field(description="Its type.")
    start: int = Field(description="Where it begins, in code points of the text that was sent.")
    end: int = Field(description="One past where it ends.")
    score: float = Field(description="Mean probability of its words' tags.")


class Entities(_Body):
    """Answer to one text whose entities were asked for."""

    entities: list[Entity] = Field(description="In the order of the text.")


class PredictAnswer(_Body):
    """Answer to one request; in a batch a row that failed has its error in its place."""

    predictions: list[Prediction | Labels | Entities | ErrorAnswer]
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
    file = {"type": "string", "format": "binary"}
    text = {"type": "string", "example": "The printer is out of paper."}
    one = {
        "multipart/form-data": {"schema": _form({"file": file})},
        "image/*": {"schema": file},
        "application/octet-stream": {"schema": file},
        "application/json": {"schema": _form({"text": text}, closed=True)},
        "text/plain": {"schema": text},
    }
    texts = {"type": "array", "items": text, "minItems": 1, "maxItems": MAX_INPUTS}
    several = {
        "multipart/form-data": {"schema": _form({"files": {"type": "array", "items": file}})},
        "application/json": {"schema": _form({"texts": texts}, closed=True)},
    }
    return {
        "/predict": {
            "post": _operation(
                "Answer one image or text",
                "A model of images takes a form with the image, or the image as the body; a model of texts takes JSON "
                "or the text as the body, in UTF-8. 400 says what the model takes.",
                one,
            )
        },
        "/predict/batch": {
            "post": _operation(
                "Answer several images or texts",
                f"At most {MAX_INPUTS}. Answers come in their order. One that fails has its error in its place and the "
                "others are answered; 400 where all fail.",
                several,
                failures_with_rows=("400", "500", "503"),
            )
        },
    }


def security_schemes() -> dict[str, Any]:
    """OpenAPI entries of the ways to send an API key."""
    return {
        "bearer": {"type": "http", "scheme": "bearer"},
        "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
    }


def components() -> dict[str, Any]:
    """OpenAPI schemas that the entries refer to."""
    schemas: dict[str, Any] = {}
    for model in (PredictAnswer, ErrorAnswer):
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}", mode="serialization")
        schemas |= schema.pop("$defs", {})
        schemas[model.__name__] = schema
    return schemas


def _operation(
    summary: str, description: str, content: dict[str, Any], *, failures_with_rows: Collection[str] = ()
) -> dict[str, Any]:
    failures: dict[str, dict[str, Any]] = {
        status: {"description": text, "content": _json("ErrorAnswer", _ERROR_EXAMPLE)}
        for status, text in FAILURES.items()
    }
    for status in failures_with_rows:
        # Where every row of a batch failed, the body has the error of each beside that of all.
        body = failures[status]["content"]["application/json"]
        body["schema"] = {"anyOf": [body["schema"], {"$ref": "#/components/schemas/PredictAnswer"}]}
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


def _form(properties: dict[str, Any], *, closed: bool = False) -> dict[str, Any]:
    form = {"type": "object", "properties": {**properties, ROUTING_KEY: KEY_SCHEMA}, "required": list(properties)}
    return form | {"additionalProperties": False} if closed else form


def _json(schema: str, example: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}, "example": example}}
