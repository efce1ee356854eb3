"""OpenAPI entries of the foreign protocols: the Open Inference Protocol and TensorFlow Serving's REST."""

from typing import Any

from serving.parameters import ROUTING_KEY
from serving.schemas import FAILURES, KEY_SCHEMA
from serving.v2.datatypes import BYTES, DTYPES

_STRING: dict[str, Any] = {"type": "string"}
_OBJECT: dict[str, Any] = {"type": "object"}
_BINARY: dict[str, Any] = {"type": "string", "format": "binary"}
_ERROR = {
    "type": "object",
    "description": "Body of an error; its kind is in the header X-Error-Code.",
    "properties": {"error": {"type": "string", "description": "One sentence."}},
    "required": ["error"],
    "additionalProperties": False,
}
_SHAPE = {"type": "array", "items": {"type": "integer", "minimum": 0}}
_DATATYPE = {"type": "string", "enum": [*DTYPES, BYTES]}
_ELEMENTS = {"type": "array", "description": "Row by row, flat or nested as the shape says.", "items": {}}
_TENSOR = {
    "type": "object",
    "properties": {
        "name": _STRING, "shape": _SHAPE, "datatype": _DATATYPE, "data": _ELEMENTS,
        "parameters": {
            "type": "object",
            "properties": {
                "content_type": {"type": "string", "enum": ["base64", "str"]},
                "binary_data_size": {"type": "integer", "minimum": 0},
            },
        },
    },
    "required": ["name", "shape", "datatype"],
}  # fmt: skip
_INFER_REQUEST = {
    "type": "object",
    "properties": {
        "id": _STRING,
        "parameters": {
            "type": "object",
            "properties": {"timeout": {"type": "integer", "minimum": 0}, ROUTING_KEY: KEY_SCHEMA},
        },
        "inputs": {"type": "array", "items": _TENSOR, "minItems": 1},
        "outputs": {
            "type": "array",
            "items": {"type": "object", "properties": {"name": _STRING, "parameters": _OBJECT}, "required": ["name"]},
        },
    },
    "required": ["inputs"],
    "example": {
        "inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["The printer is out of paper."]}]
    },
}
_INFER_ANSWER = {
    "type": "object",
    "properties": {
        "model_name": _STRING, "model_version": _STRING, "id": _STRING,
        "outputs": {"type": "array", "items": _TENSOR},
    },
    "required": ["model_name", "outputs"],
}  # fmt: skip
_PREDICT_REQUEST = {
    "type": "object",
    "description": "Rows in instances, or columns in inputs.",
    "properties": {
        "signature_name": {"type": "string", "description": "serving_default, pixels or tensor."},
        "instances": {"type": "array", "items": {}, "minItems": 1},
        "inputs": {},
        ROUTING_KEY: KEY_SCHEMA,
    },
    "additionalProperties": False,
    "example": {"instances": ["The printer is out of paper."]},
}
_CLASSIFY_REQUEST = {
    "type": "object",
    "properties": {
        "signature_name": _STRING,
        "context": _OBJECT,
        "examples": {"type": "array", "items": _OBJECT, "minItems": 1},
        ROUTING_KEY: KEY_SCHEMA,
    },
    "required": ["examples"],
    "additionalProperties": False,
}
_DESCRIPTIONS = {**FAILURES, "409": "The version has traffic, or cannot be served"}
_SCHEMAS = {"SentenceError": _ERROR, "InferRequest": _INFER_REQUEST, "InferAnswer": _INFER_ANSWER}
_V2, _V1 = "Open Inference Protocol", "TensorFlow Serving"
_HEADER_LENGTH = {
    "name": "Inference-Header-Content-Length",
    "in": "header",
    "description": "Bytes of JSON before the tensors' bytes; 0 for a body that is the only input.",
    "schema": {"type": "integer", "minimum": 0},
}
_V2_OF_MODEL = {
    "": ("Metadata of a model", "model_metadata"),
    "/ready": ("Whether a model takes requests", "model_ready"),
    "/config": ("Configuration of a model, with every input it takes", "model_config"),
    "/stats": ("What a model has done", "model_statistics"),
}


def foreign_paths() -> dict[str, Any]:
    """OpenAPI path items of /v1 and /v2."""
    paths: dict[str, Any] = {
        "/v2": {"get": _read(_V2, "What the server is", "server_metadata")},
        "/v2/health/live": {"get": _read(_V2, "Whether the process answers", "server_live")},
        "/v2/health/ready": {"get": _read(_V2, "Whether requests are taken", "server_ready", "503")},
        "/v2/repository/index": {"post": _index()},
        **{
            f"/v2/repository/models/{{model}}{version}/{verb}": {"post": _change(verb, version)}
            for verb in ("load", "unload")
            for version in ("", "/versions/{version}")
        },
    }
    for prefix, version in (("/v2/models/{model}", ""), ("/v2/models/{model}/versions/{version}", "_of_version")):
        for path, (summary, name) in _V2_OF_MODEL.items():
            paths[prefix + path] = {"get": _read(_V2, summary, f"{name}{version}", "404", "503", path=prefix)}
        paths[f"{prefix}/infer"] = {"post": _infer(prefix, f"infer{version}")}
    for prefix, kind in (
        ("/v1/models/{model}", ""),
        ("/v1/models/{model}/versions/{version}", "_of_version"),
        ("/v1/models/{model}/labels/{label}", "_of_label"),
    ):
        paths[prefix] = {"get": _read(_V1, "Status of a model", f"status{kind}", "404", "503", path=prefix)}
        paths[f"{prefix}/metadata"] = {"get": _read(_V1, "Signatures", f"signatures{kind}", "404", "503", path=prefix)}
        paths[f"{prefix}:predict"] = {"post": _ask("Predict", _PREDICT_REQUEST, prefix, f"predict{kind}")}
        paths[f"{prefix}:classify"] = {"post": _ask("Classify", _CLASSIFY_REQUEST, prefix, f"classify{kind}")}
    return paths


def foreign_components() -> dict[str, Any]:
    """OpenAPI schemas that the entries refer to."""
    return dict(_SCHEMAS)


def _infer(path: str, name: str) -> dict[str, Any]:
    operation = _operation(_V2, "Answer tensors", name, path, _answered({"$ref": "#/components/schemas/InferAnswer"}))
    operation["responses"]["200"]["content"]["application/octet-stream"] = {"schema": _BINARY}
    operation["responses"] |= _failures(*FAILURES)
    operation["parameters"].append(_HEADER_LENGTH)
    content = {
        "application/json": {"schema": {"$ref": "#/components/schemas/InferRequest"}},
        "application/octet-stream": {"schema": _BINARY},
    }
    return {**operation, "requestBody": {"required": True, "content": content}}


def _ask(verb: str, schema: dict[str, Any], path: str, name: str) -> dict[str, Any]:
    operation = _operation(_V1, verb, name, path, _answered(_OBJECT))
    operation["responses"] |= _failures(*FAILURES)
    return {**operation, "requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _index() -> dict[str, Any]:
    operation = _operation(
        _V2, "What is loaded", "repository_index", "", _answered({"type": "array", "items": _OBJECT})
    )
    operation["responses"] |= _failures("400", "401", "403", "408", "413", "429")
    ready = {"type": "object", "properties": {"ready": {"type": "boolean"}}}
    return {**operation, "requestBody": {"content": {"application/json": {"schema": ready}}}}


def _change(verb: str, version: str) -> dict[str, Any]:
    path, name = f"/{{model}}{version}", f"{verb}{'_of_version' if version else ''}"
    summary = f"{verb.capitalize()} a version" if version else f"{verb.capitalize()} a model: each has a version loaded"
    operation = _operation(_V2, summary, name, path, _answered(_OBJECT))
    operation["responses"] |= _failures("400", "401", "403", "404", "408", "409", "413", "429", "503")
    parameters = {"type": "object", "properties": {"parameters": _OBJECT}, "additionalProperties": False}
    return {**operation, "requestBody": {"content": {"application/json": {"schema": parameters}}}}


def _read(tag: str, summary: str, name: str, *statuses: str, path: str = "") -> dict[str, Any]:
    operation = _operation(tag, summary, name, path, _answered(_OBJECT))
    operation["responses"] |= _failures("400", "401", "403", "429", *statuses)
    return operation


def _operation(tag: str, summary: str, name: str, path: str, answered: dict[str, Any]) -> dict[str, Any]:
    names = [part.partition("}")[0] for part in path.split("{")[1:]]
    parameters: list[dict[str, Any]] = [
        {"name": one, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}} for one in names
    ]
    prefix = "v2" if tag == _V2 else "v1"
    return {
        "tags": [tag],
        "summary": summary,
        "operationId": f"{prefix}_{name}",
        "parameters": parameters,
        "responses": {"200": answered},
    }


def _answered(schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": "Answered", "content": {"application/json": {"schema": schema}}}


def _failures(*statuses: str) -> dict[str, Any]:
    schema = {"$ref": "#/components/schemas/SentenceError"}
    return {
        status: {"description": _DESCRIPTIONS[status], "content": {"application/json": {"schema": schema}}}
        for status in statuses
    }
