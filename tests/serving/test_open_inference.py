"""/v2 over a real socket: every path, every way to send an input."""

import base64
import gzip
import json
import zlib

import numpy as np
import pytest

from serving.v2.datatypes import join_bytes, split_bytes
from tests.serving.bundles import BLUE, RED, SIDE, make_bundle, reference
from tests.serving.servers import app_of, serving
from tests.serving.tensor_bundles import reference as sums

INFER = "/v2/models/colours/infer"


def images(*contents):
    data = [base64.b64encode(one).decode() for one in contents]
    parameters = {"content_type": "base64"}
    return {
        "inputs": [{"name": "image", "shape": [len(data)], "datatype": "BYTES", "parameters": parameters, "data": data}]
    }


def outputs(answer):
    assert answer.status_code == 200, answer.text
    return {one["name"]: one["data"] for one in answer.json()["outputs"]}


def binary(header, *parts):
    content = json.dumps(header).encode()
    headers = {"Inference-Header-Content-Length": str(len(content)), "Content-Type": "application/octet-stream"}
    return {"content": content + b"".join(parts), "headers": headers}


def test_images_of_any_size_are_answered(client):
    answer = client.post(INFER, json={**images(RED, BLUE), "id": "abc"})

    given = outputs(answer)
    assert given["label"] == ["red", "blue"]
    expected = np.concatenate([reference(RED), reference(BLUE)])
    np.testing.assert_allclose(np.array(given["probabilities"]), expected.reshape(-1), atol=0.02)
    content = answer.json()
    assert (content["id"], content["model_name"], content["model_version"]) == ("abc", "colours", "3")
    assert answer.headers["x-model-version"] == "3"
    assert "run;dur=" in answer.headers["server-timing"]


def test_each_form_of_an_image_gets_the_same_answer(client):
    pixels = np.zeros((1, SIDE, SIDE, 3), np.uint8)
    pixels[..., 0] = 250
    tensor = {"name": "pixels", "shape": list(pixels.shape), "datatype": "UINT8"}
    # What preprocessing makes of it: see make_bundle.
    nested = client.post(INFER, json={"inputs": [{**tensor, "data": pixels.tolist()}]})
    flat = client.post(INFER, json={"inputs": [{**tensor, "data": pixels.reshape(-1).tolist()}]})
    header = {"inputs": [{**tensor, "parameters": {"binary_data_size": pixels.nbytes}}]}
    as_bytes = client.post(INFER, **binary(header, pixels.tobytes()))

    assert outputs(nested) == outputs(flat) == outputs(as_bytes)
    assert outputs(nested)["label"] == ["red"]


def test_the_models_own_rows_are_answered(client):
    rows = np.zeros((2, SIDE, SIDE, 3), np.float32)
    rows[0, ..., 2] = rows[1, ..., 1] = 1
    tensor = {"name": "input", "shape": list(rows.shape), "datatype": "FP32"}

    answer = client.post(INFER, json={"inputs": [{**tensor, "data": rows.tolist()}]})

    assert outputs(answer)["label"] == ["blue", "green"]


def test_outputs_may_come_as_bytes(client):
    header = {
        "inputs": [
            {"name": "image", "shape": [2], "datatype": "BYTES",
             "parameters": {"binary_data_size": len(RED) + len(BLUE) + 8}}
        ],
        "outputs": [
            {"name": "label", "parameters": {"binary_data": True}},
            {"name": "score"},
            {"name": "probabilities", "parameters": {"binary_data": True}},
        ],
    }  # fmt: skip

    answer = client.post(INFER, **binary(header, join_bytes([RED, BLUE])))

    length = int(answer.headers["inference-header-content-length"])
    content, rest = json.loads(answer.content[:length]), answer.content[length:]
    label, score, probabilities = content["outputs"]
    size = label["parameters"]["binary_data_size"]
    assert answer.headers["content-type"] == "application/octet-stream"
    assert split_bytes(rest[:size], "label") == [b"red", b"blue"]
    assert len(score["data"]) == 2
    assert probabilities["shape"] == [2, 3]
    assert np.frombuffer(rest[size:], np.float32).reshape(2, 3).argmax(axis=1).tolist() == [0, 2]


def test_a_body_that_is_the_image_is_answered_in_bytes(client):
    answer = client.post(INFER, content=RED, headers={"Inference-Header-Content-Length": "0"})

    length = int(answer.headers["inference-header-content-length"])
    assert json.loads(answer.content[:length])["outputs"][1]["name"] == "label"
    assert b"red" in answer.content[length:]


@pytest.mark.parametrize(("name", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_bodies_may_be_packed_both_ways(client, name, pack):
    several = images(*[RED] * 40)
    plain = client.post(INFER, json=several, headers={"Accept-Encoding": "identity"})
    packed = client.post(
        INFER, content=pack(json.dumps(several).encode()), headers={"Content-Encoding": name, "Accept-Encoding": name}
    )

    assert outputs(packed) == outputs(plain)
    assert (packed.headers["content-encoding"], plain.headers.get("content-encoding")) == (name, None)


def test_the_best_classes_are_given_with_their_labels(client):
    wish = {**images(RED), "outputs": [{"name": "probabilities", "parameters": {"classification": 2}}]}

    best = outputs(client.post(INFER, json=wish))["probabilities"]

    assert best[0].split(":")[1:] == ["0", "red"]
    assert len(best) == 2


def test_texts_are_answered(moods_client):
    wish = {"inputs": [{"name": "text", "shape": [2], "datatype": "BYTES", "data": ["a fine day", "ö"]}]}

    given = outputs(moods_client.post("/v2/models/moods/versions/5/infer", json=wish))

    ours = moods_client.post("/predict/batch", json={"texts": ["a fine day", "ö"]}).json()["predictions"]
    assert given["label"] == [one["label"] for one in ours]
    np.testing.assert_allclose(given["score"], [one["score"] for one in ours], rtol=1e-5)


def test_entities_are_answered_as_json(names_client):
    wish = {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["Zoë went to Rome"]}]}

    given = outputs(names_client.post("/v2/models/names/infer", json=wish))

    ours = names_client.post("/predict", json={"text": "Zoë went to Rome"}).json()["predictions"][0]["entities"]
    assert [json.loads(one) for one in given["entities"]] == [ours]


def test_named_tensors_are_answered_in_json_and_in_bytes(sums_client):
    numbers, factor = np.array([[1, 2.5], [3, 4]], np.float32), np.array([2, 3], np.int32)
    shapes = [
        {"name": "numbers", "shape": [2, 2], "datatype": "FP32"},
        {"name": "factor", "shape": [2], "datatype": "INT32"},
    ]
    plain = {"inputs": [{**one, "data": array.tolist()} for one, array in zip(shapes, (numbers, factor), strict=True)]}
    header = {
        "inputs": [
            {**one, "parameters": {"binary_data_size": array.nbytes}}
            for one, array in zip(shapes, (numbers, factor), strict=True)
        ],
        "outputs": [{"name": "parity"}],
    }

    as_json = outputs(sums_client.post("/v2/models/sums/infer", json=plain))
    as_bytes = outputs(sums_client.post("/v2/models/sums/infer", **binary(header, numbers.tobytes(), factor.tobytes())))

    expected = sums(numbers, factor)
    assert as_json == {"sum": expected["sum"].tolist(), "parity": expected["parity"].tolist()}
    assert as_bytes == {"parity": expected["parity"].tolist()}


def test_features_are_given_to_who_names_them(tmp_path):
    with serving(app_of(make_bundle(tmp_path / "colours", features=True))) as server:
        all_of_them = outputs(server.client.post(INFER, json=images(RED)))
        features = outputs(server.client.post(INFER, json={**images(RED), "outputs": [{"name": "features"}]}))

    assert list(all_of_them) == ["probabilities", "label", "score"]
    assert len(features["features"]) == 3


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("/v2", {"name": "tfpipe"}),
        ("/v2/health/live", {"live": True}),
        ("/v2/health/ready", {"ready": True}),
        ("/v2/models/colours", {"versions": ["3"]}),
        ("/v2/models/colours/versions/3", {"name": "colours"}),
        ("/v2/models/colours/ready", {"ready": True}),
        ("/v2/models/colours/versions/3/ready", {"ready": True}),
        ("/v2/models/colours/config", {"max_batch_size": 0}),
    ],
)
def test_documents_are_there(client, path, part):
    answer = client.get(path)

    assert answer.status_code == 200
    assert answer.json().items() >= part.items()
    assert client.head(path).status_code == 200


def test_the_statistics_count_what_was_answered(client):
    def read():
        return client.get("/v2/models/colours/stats").json()["model_stats"][0]

    before = read()
    client.post(INFER, json=images(RED, BLUE))
    after = read()

    assert after["inference_count"] == before["inference_count"] + 2
    assert after["inference_stats"]["success"]["count"] == before["inference_stats"]["success"]["count"] + 1
    assert after["inference_stats"]["compute_infer"]["ns"] > before["inference_stats"]["compute_infer"]["ns"]
    assert client.get("/v2/models/stats").json()["model_stats"][0]["name"] == "colours"


def test_the_statistics_tell_batches_by_their_size(client):
    def read():
        stats = client.get("/v2/models/colours/stats").json()["model_stats"][0]
        return stats["execution_count"], {one["batch_size"]: one for one in stats["batch_stats"]}

    none = {"compute_infer": {"count": 0, "ns": 0}}
    executions, before = read()
    for contents in ([RED], [RED], [RED, BLUE, RED]):
        client.post(INFER, json=images(*contents))
    executions_after, after = read()

    ran = {
        rows: after[rows]["compute_infer"]["count"] - before.get(rows, none)["compute_infer"]["count"] for rows in after
    }
    assert {rows: count for rows, count in ran.items() if count} == {1: 2, 3: 1}
    assert after[3]["compute_infer"]["ns"] > before.get(3, none)["compute_infer"]["ns"]
    assert after[3]["compute_input"]["count"] == after[3]["compute_output"]["count"]
    assert executions_after == executions + 3


def test_the_repository_lists_what_is_loaded(client):
    loaded = [{"name": "colours", "version": "3", "state": "READY", "reason": ""}]

    assert client.post("/v2/repository/index").json() == loaded
    assert client.post("/v2/repository/index", json={"ready": True}).json() == loaded
    assert client.post("/v2/repository/index", json={"ready": 1}).status_code == 400


@pytest.mark.parametrize(
    ("method", "path", "status", "code", "words"),
    [
        ("POST", "/v2/models/other/infer", 404, "unknown_model", "model_name: expected 'colours'"),
        ("POST", "/v2/models/colours/versions/4/infer", 404, "unknown_model", "model_version: expected '3'"),
        ("GET", "/v2/models/other/ready", 404, "unknown_model", "received 'other'"),
        ("GET", INFER, 405, "method_not_allowed", "expected POST, received GET"),
        ("POST", "/v2", 405, "method_not_allowed", "expected GET, received POST"),
        ("GET", "/v2/health", 404, "unknown_path", "no such path"),
        ("GET", "/v2/models", 404, "unknown_path", "no such path"),
        ("GET", "/v2/models/", 404, "unknown_path", "no such path"),
        ("POST", "/v2/infer", 404, "unknown_path", "no such path"),
        ("POST", "/v2/models/infer", 404, "unknown_path", "no such path"),
        ("GET", "/v2/systemsharedmemory/status", 400, "invalid_request", "no systemsharedmemory calls"),
        ("POST", "/v2/trace/setting", 400, "invalid_request", "no trace calls"),
        ("GET", "/v2/models/colours/trace/setting", 400, "invalid_request", "calls"),
        ("POST", "/v2/logging", 400, "invalid_request", "no logging calls"),
        ("POST", "/v2/repository/models/colours/unload", 403, "forbidden", "expected"),
    ],
)
def test_what_is_not_there_is_said_in_a_sentence(client, method, path, status, code, words):
    answer = client.request(method, path)

    assert (answer.status_code, answer.headers["x-error-code"]) == (status, code)
    assert list(answer.json()) == ["error"]
    assert words in answer.json()["error"]


def test_one_row_that_fails_is_named(client):
    answer = client.post(INFER, json=images(RED, b"no picture"))

    assert (answer.status_code, answer.headers["x-error-code"]) == (400, "undecodable_image")
    assert answer.json()["error"].startswith("row 1: image: expected a JPEG")


def test_more_than_one_input_is_refused(client):
    pixels = {"name": "pixels", "shape": [1, 1, 1, 3], "datatype": "UINT8", "data": [0, 0, 0]}

    answer = client.post(INFER, json={"inputs": [*images(RED)["inputs"], pixels]})

    assert answer.status_code == 400
    assert "expected one of image, pixels, input of model 'colours', received 'image', 'pixels'" in answer.text


def test_limits_hold(client):
    pixels = np.zeros((1, 101, 100, 3), np.uint8)
    tensor = {"name": "pixels", "shape": list(pixels.shape), "datatype": "UINT8"}
    header = {"inputs": [{**tensor, "parameters": {"binary_data_size": pixels.nbytes}}]}

    assert client.post(INFER, **binary(header, pixels.tobytes())).status_code == 413
    assert client.post(INFER, content=bytes(1_000_001)).status_code == 413
    bomb = client.post(INFER, content=gzip.compress(bytes(2_000_000)), headers={"Content-Encoding": "gzip"})
    assert bomb.status_code == 413


def test_a_request_has_the_time_that_it_asks_for(slow_bundle):
    with serving(app_of(slow_bundle)) as server:
        wish = {**images(RED), "parameters": {"timeout": 1000}}
        answer = server.client.post(INFER, json=wish)
        header = server.client.post(INFER, json=images(RED), headers={"X-Timeout-Ms": "1"})

    assert (answer.status_code, answer.headers["x-error-code"]) == (504, "deadline_exceeded")
    assert header.status_code == 504


def test_requests_are_counted_under_their_protocol(client):
    client.post(INFER, json=images(RED))

    assert 'protocol="v2"' in client.get("/metrics").text
