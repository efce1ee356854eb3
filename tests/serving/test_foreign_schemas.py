"""What /openapi.json says of the foreign protocols is so."""

import json

import pytest

from serving.routes.answers import STATUSES

VALUES = {"{model}": "colours", "{version}": "3", "{label}": "champion"}


@pytest.fixture
def schema(client):
    return client.get("/openapi.json").json()


def test_every_path_is_answered_as_described(client, schema):
    described = {path: entry for path, entry in schema["paths"].items() if path.startswith(("/v1", "/v2"))}
    assert len(described) > 20

    for path, entry in described.items():
        for name, value in VALUES.items():
            path = path.replace(name, value)
        for method, operation in entry.items():
            answer = client.request(method, path)
            content = operation["responses"][str(answer.status_code)]["content"]
            assert answer.headers["content-type"] in content, (path, answer.text)
            assert answer.headers.get("x-error-code") != "unknown_path", path


def test_every_status_of_an_inference_is_described(schema):
    described = schema["paths"]["/v2/models/{model}/infer"]["post"]["responses"]
    # 405 and 499 are of other requests than described.
    assert {str(status) for _, status, _ in STATUSES} - {"405", "499"} <= set(described)


def test_names_of_operations_differ(schema):
    names = [operation["operationId"] for entry in schema["paths"].values() for operation in entry.values()]

    assert len(names) == len(set(names))
    assert "SentenceError" in json.dumps(schema["components"])
