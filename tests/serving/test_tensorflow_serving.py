"""/v1 over a real socket: TensorFlow Serving's paths and bodies."""

import base64
import json

import numpy as np
import pytest

from tests.serving.bundles import BLUE, RED, SIDE

PREDICT = "/v1/models/colours:predict"


def b64(content):
    return {"b64": base64.b64encode(content).decode()}


def test_rows_and_columns_are_answered_in_kind(client):
    rows = client.post(PREDICT, json={"instances": [{"image_bytes": b64(RED)}, {"image_bytes": b64(BLUE)}]})
    columns = client.post(PREDICT, json={"inputs": {"image_bytes": [b64(RED), b64(BLUE)]}})

    predictions, outputs = rows.json()["predictions"], columns.json()["outputs"]
    assert [one["label"] for one in predictions] == outputs["label"] == ["red", "blue"]
    assert [one["probabilities"] for one in predictions] == outputs["probabilities"]
    assert [one["score"] for one in predictions] == outputs["score"]
    assert rows.headers["x-model-version"] == "3"


@pytest.mark.parametrize("path", ["/v1/models/colours/versions/3:predict", PREDICT])
def test_curl_without_a_content_type_is_answered(client, path):
    body = json.dumps({"instances": [b64(RED)]})

    answer = client.post(path, content=body, headers={"Content-Type": "application/x-www-form-urlencoded"})

    assert answer.json()["predictions"][0]["label"] == "red"


def test_pixels_and_rows_have_signatures(client):
    pixels = np.zeros((1, SIDE, SIDE, 3), int)
    pixels[..., 2] = 250
    rows = np.zeros((1, SIDE, SIDE, 3))
    rows[..., 2] = 1

    for name, array in (("pixels", pixels), ("tensor", rows)):
        answer = client.post(PREDICT, json={"signature_name": name, "instances": array.tolist()})
        assert answer.json()["predictions"][0]["label"] == "blue", answer.text


def test_images_and_texts_are_classified(client, moods_client):
    image = client.post("/v1/models/colours:classify", json={"examples": [{"image_bytes": b64(RED)}]})
    text = moods_client.post("/v1/models/moods:classify", json={"examples": [{"text": "a fine day"}]})

    ((red, score), *others) = image.json()["result"][0]
    assert (red, score > 0.5, len(others)) == ("red", True, 2)
    ours = moods_client.post("/predict", json={"text": "a fine day"}).json()["predictions"][0]
    assert dict(text.json()["result"][0]) == pytest.approx(ours["probabilities"])


def test_texts_are_answered(moods_client):
    answer = moods_client.post("/v1/models/moods:predict", json={"instances": ["a fine day", "rain"]})

    ours = moods_client.post("/predict/batch", json={"texts": ["a fine day", "rain"]}).json()["predictions"]
    assert [one["label"] for one in answer.json()["predictions"]] == [one["label"] for one in ours]


def test_tags_are_answered_for_each_token(names_client):
    answer = names_client.post("/v1/models/names:predict", json={"inputs": ["Zoë went to Rome", "no"]})

    outputs = answer.json()["outputs"]
    assert len(outputs["label"][0]) == len(outputs["label"][1]) == len(outputs["probabilities"][0])
    assert outputs["label"][1][-1] == ""


def test_named_tensors_are_answered_as_the_documentation_shows(sums_client):
    rows = sums_client.post(
        "/v1/models/sums/versions/1:predict",
        json={"instances": [{"numbers": [1, 2.5], "factor": 2}, {"numbers": [3, 4], "factor": 3}]},
    )
    columns = sums_client.post(
        "/v1/models/sums:predict", json={"inputs": {"numbers": [[1, 2.5], [3, 4]], "factor": [2, 3]}}
    )
    special = sums_client.post("/v1/models/sums:predict", content=b'{"instances": [{"numbers": [NaN], "factor": 1}]}')

    assert rows.json() == {"predictions": [{"sum": 7.0, "parity": 0}, {"sum": 21.0, "parity": 1}]}
    assert columns.json() == {"outputs": {"sum": [7.0, 21.0], "parity": [0, 1]}}
    assert special.text == '{"predictions":[{"sum":NaN,"parity":1}]}'


def test_status_and_metadata_are_there(client, sums_client):
    available = {"state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}

    for path in ("/v1/models/colours", "/v1/models/colours/versions/3"):
        assert client.get(path).json() == {"model_version_status": [{"version": "3", **available}]}
    assert sums_client.get("/v1/models/sums").json() == {"model_version_status": [{"version": "1", **available}]}
    for path in ("/v1/models/colours/metadata", "/v1/models/colours/versions/3/metadata"):
        metadata = client.get(path).json()
        assert metadata["model_spec"]["version"] == "3"
        assert "pixels" in metadata["metadata"]["signature_def"]["signature_def"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code", "words"),
    [
        ("POST", "/v1/models/half:predict", 404, "unknown_model", "received 'half'"),
        ("POST", "/v1/models/colours/versions/1:predict", 404, "unknown_model", "received '1'"),
        ("POST", "/v1/models/colours/labels/stable:predict", 404, "unknown_model", "received 'stable'"),
        ("GET", "/v1/models/colours/labels/stable", 404, "unknown_model", "received 'stable'"),
        ("GET", "/v1/models/half/metadata", 404, "unknown_model", "received 'half'"),
        ("GET", PREDICT, 405, "method_not_allowed", "expected POST"),
        ("POST", "/v1/models/colours", 405, "method_not_allowed", "expected GET"),
        ("GET", "/v1/models", 404, "unknown_path", "no such path"),
        ("GET", "/v1/", 404, "unknown_path", "no such path"),
        ("GET", "/v1/models/colours/versions", 404, "unknown_path", "no such path"),
        ("POST", "/v1/models/colours:regress", 400, "invalid_request", "has none"),
        ("POST", PREDICT, 400, "invalid_request", "expected JSON"),
    ],
)
def test_what_is_not_there_is_said_in_a_sentence(client, method, path, status, code, words):
    answer = client.request(method, path)

    assert (answer.status_code, answer.headers["x-error-code"]) == (status, code)
    assert list(answer.json()) == ["error"]
    assert words in answer.json()["error"]


def test_tags_and_tensors_are_not_classified(names_client, sums_client):
    for client, name in ((names_client, "names"), (sums_client, "sums")):
        answer = client.post(f"/v1/models/{name}:classify", json={"examples": [{"text": "a"}]})
        assert answer.status_code == 400
        assert "expected a model that gives classes" in answer.json()["error"]


def test_one_row_that_fails_is_named(client):
    answer = client.post(PREDICT, json={"instances": [b64(RED), b64(b"no picture")]})

    assert answer.status_code == 400
    assert answer.json()["error"].startswith("row 1: image: expected a JPEG")
