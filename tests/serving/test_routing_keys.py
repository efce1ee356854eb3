"""A routing key in the body does what the header does, in every protocol."""

import base64
import contextlib

import grpc
import pytest

from serving.app import create_app
from serving.keys_command import create_key
from serving.settings import ServingSettings
from serving.v2.grpc_messages import MESSAGES, SERVICE
from tests.serving.bundles import RED, make_bundle
from tests.serving.registered import metric
from tests.serving.servers import serving
from tests.serving.text_bundles import make_text_bundle

RAW = {"Inference-Header-Content-Length": "0"}
KEYS = [f"user-{index}" for index in range(12)] + ["Zoë", ""]
IMAGE = base64.b64encode(RED).decode()
TEXT = {"name": "text", "shape": [1], "datatype": "BYTES"}
PICTURE = {"name": "image", "shape": [1], "datatype": "BYTES", "parameters": {"content_type": "base64"}}


@contextlib.contextmanager
def split_service(folder, model, *bundles):
    """Two versions of a model, each with half of the traffic."""
    key = create_key(folder / "keys.json", {"name": "operator", "scopes": ["admin", "predict"]})
    settings = ServingSettings(
        model=",".join(map(str, bundles)), isolation="inline", cache_dir=folder,
        api_keys_file=folder / "keys.json", grpc_port=0,
    )  # fmt: skip
    with serving(create_app(settings)) as running:
        running.client.headers["Authorization"] = f"Bearer {key}"
        answer = running.client.put(f"/admin/models/{model}/routing", json={"shares": {"1": 0.5, "2": 0.5}})
        assert answer.status_code == 200, answer.text
        yield running


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    bundles = [make_bundle(folder / version, version=version) for version in ("1", "2")]
    with split_service(folder, "colours", *bundles) as running:
        yield running


@pytest.fixture(scope="module")
def texts(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    bundles = [
        make_text_bundle(folder / version, tokenizer, manifest_changes={"model_version": version})
        for version in ("1", "2")
    ]
    with split_service(folder, "moods", *bundles) as running:
        yield running


def by_header(client, path, key, **request):
    answer = client.post(path, headers={"X-Routing-Key": key.encode()}, **request)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-model-version"]


def by_body(client, path, **request):
    answer = client.post(path, **request)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-model-version"]


def over_grpc(running, key):
    message = MESSAGES["ModelInferRequest"](
        model_name="colours",
        inputs=[{"name": "image", "datatype": "BYTES", "shape": [1], "contents": {"bytes_contents": [RED]}}],
    )
    message.parameters["routing_key"].string_param = key
    with grpc.insecure_channel(f"127.0.0.1:{running.app.service.grpc_port}") as channel:
        ask = channel.unary_unary(
            f"/{SERVICE}/ModelInfer",
            request_serializer=MESSAGES["ModelInferRequest"].SerializeToString,
            response_deserializer=MESSAGES["ModelInferResponse"].FromString,
        )
        authorization = running.client.headers["Authorization"]
        return ask(message, timeout=30, metadata=[("authorization", authorization)]).model_version


def test_the_same_key_has_the_same_version_wherever_it_stands(images):
    client, found = images.client, {}
    before = metric(client, "tfpipe_routed_total")

    for key in KEYS:
        wish = {"inputs": [{**PICTURE, "data": [IMAGE]}], "parameters": {"routing_key": key}}
        rows = {"instances": [{"b64": IMAGE}], "routing_key": key}
        examples = {"examples": [{"image_bytes": {"b64": IMAGE}}], "routing_key": key}
        found[key] = {
            by_header(client, "/predict", key, content=RED),
            by_body(client, "/predict", files={"file": RED}, data={"routing_key": key}),
            by_body(client, "/predict/batch", files=[("files", RED), ("files", RED)], data={"routing_key": key}),
            by_body(client, "/v2/models/colours/infer", json=wish),
            by_body(client, "/v1/models/colours:predict", json=rows),
            by_body(client, "/v1/models/colours:classify", json=examples),
            by_header(client, "/v1/models/colours:classify", key, json=examples),
            over_grpc(images, key),
        }
    after = metric(client, "tfpipe_routed_total")

    assert all(len(versions) == 1 for versions in found.values()), found
    assert set().union(*found.values()) == {"1", "2"}
    # Each request once, though a version was looked at before its body was read.
    assert sum(after.values()) - sum(before.values()) == 8 * len(KEYS)


def test_keys_stand_beside_texts(texts):
    client, found = texts.client, {}

    for key in KEYS:
        wish = {"inputs": [{**TEXT, "data": ["a fine day"]}], "parameters": {"routing_key": key}}
        found[key] = {
            by_header(client, "/predict", key, json={"text": "a fine day"}),
            by_body(client, "/predict", json={"text": "a fine day", "routing_key": key}),
            by_body(client, "/predict/batch", json={"routing_key": key, "texts": ["a fine day", "rain"]}),
            by_body(client, "/v2/models/moods/infer", json=wish),
            by_body(client, "/v1/models/moods:predict", json={"inputs": ["a fine day"], "routing_key": key}),
        }

    assert all(len(versions) == 1 for versions in found.values()), found
    assert set().union(*found.values()) == {"1", "2"}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/predict", {"text": "a"}),
        ("/v1/models/moods:predict", {"instances": ["a"]}),
        ("/v2/models/moods/infer", {"inputs": [{**TEXT, "data": ["a"]}]}),
    ],
)
@pytest.mark.parametrize(
    ("key", "words"), [("b", "expected that of X-Routing-Key, 'a', or none, received 'b'"), (7, "expected a string")]
)
def test_unlike_keys_and_what_is_no_string_are_refused(texts, path, body, key, words):
    given = {**body, "parameters": {"routing_key": key}} if "v2" in path else {**body, "routing_key": key}

    answer = texts.client.post(path, json=given, headers={"X-Routing-Key": "a"})

    assert answer.status_code == 400
    assert words in answer.text


def test_a_form_has_one_key_of_text(images):
    client = images.client

    twice = client.post("/predict", files={"file": RED}, data={"routing_key": ["a", "b"]})
    bytes_ = client.post("/predict", files=[("file", RED), ("routing_key", b"\xff")])

    assert (twice.status_code, "once, received it 2 times" in twice.text) == (400, True)
    assert (bytes_.status_code, "expected UTF-8" in bytes_.text) == (400, True)


def test_versions_that_take_different_things_each_read_the_body_as_theirs(tokenizer, tmp_path):
    bundles = [
        make_text_bundle(tmp_path / "texts", tokenizer, manifest_changes={"model_version": "1"}),
        make_bundle(tmp_path / "images", name="moods", version="2"),
    ]
    answers = []
    with split_service(tmp_path, "moods", *bundles) as running:
        for key in KEYS:
            wish = {"inputs": [{**TEXT, "data": ["a"]}], "parameters": {"routing_key": key}}
            by_tensors = running.client.post("/v2/models/moods/infer", json=wish)
            by_rows = running.client.post("/v1/models/moods:predict", json={"instances": ["a"], "routing_key": key})
            whole = running.client.post(
                "/v2/models/moods/infer", content=b"a", headers=RAW | {"X-Routing-Key": key.encode()}
            )
            answers.append((by_tensors.status_code, by_rows.status_code, whole.status_code))
        by_chance = {running.client.post("/v2/models/moods/infer", content=b"a", headers=RAW).text for _ in range(24)}

    # Of texts, or of images, to which it is none.
    assert set(answers) == {(200, 200, 200), (400, 400, 400)}
    assert any("expected a JPEG" in text for text in by_chance)
    assert not any("inputs: expected" in text for text in by_chance)
