"""Versions loaded and unloaded by the repository extension, over HTTP and gRPC."""

import grpc
import pytest

from serving.v2.grpc_messages import MESSAGES, SERVICE
from tests.serving.registered import MODEL, Store

PATH = f"/v2/repository/models/{MODEL}/versions/2"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Version 1 is served; 2 can be; 3 does not give training's golden answers."""
    return Store(tmp_path_factory.mktemp("store"), [{}, {}, {"golden_offset": 0.5}])


@pytest.fixture(scope="module")
def server(store):
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MLFLOW_TRACKING_URI", store.uri)
        with store.served(grpc_port=0) as running:
            yield running


def loaded(client):
    return [one["version"] for one in client.post("/v2/repository/index").json()]


def test_a_version_comes_and_goes(server):
    client = server.client

    came = client.post(f"{PATH}/load")
    there = loaded(client), client.get(f"/v2/models/{MODEL}/versions/2/ready").json()["ready"]
    went = client.post(f"{PATH}/unload", json={"parameters": {"unload_dependents": True}})

    assert (came.status_code, came.json()) == (went.status_code, went.json()) == (200, {})
    assert there == (["1", "2"], True)
    assert loaded(client) == ["1"]
    assert client.post(f"{PATH}/unload").status_code == 404


def test_a_model_without_a_version_is_there_or_is_not(server):
    assert server.client.post(f"/v2/repository/models/{MODEL}/load", json={}).status_code == 200
    assert server.client.post("/v2/repository/models/other/load", json={}).status_code == 404


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        (f"{MODEL}/unload", {}, 400, "expected NAME/versions/VERSION"),
        (f"{MODEL}/versions/1/unload", {}, 409, "expected one without traffic"),
        (f"{MODEL}/versions/3/load", {}, 409, "cannot be served"),
        (f"{MODEL}/versions/9/load", {}, 404, "9"),
        (f"{MODEL}/versions//load", {}, 400, "expected NAME or NAME/versions/VERSION"),
        (f"{MODEL}/2/load", {}, 400, "expected NAME or NAME/versions/VERSION"),
        (f"{MODEL}/versions/2/load", {"parameters": {"config": "{}"}}, 400, "expected none, received 'config'"),
        (
            f"{MODEL}/versions/2/load",
            {"parameters": {"file:1/model.onnx": "AA=="}},
            400,
            "received 'file:1/model.onnx'",
        ),
        (f"{MODEL}/versions/2/unload", {"parameters": {"unload_dependents": 1}}, 400, "expected true or false"),
        (f"{MODEL}/versions/2/unload", {"parameters": [1]}, 400, "parameters: expected an object"),
        (f"{MODEL}/versions/2/load", {"version": "2"}, 400, "unknown key 'version'"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(server, path, body, status, words):
    answer = server.client.post(f"/v2/repository/models/{path}", json=body)

    assert answer.status_code == status, answer.text
    assert words in answer.json()["error"]
    assert loaded(server.client) == ["1"]


def test_versions_come_and_go_over_grpc(server, store):
    key = ("authorization", f"Bearer {store.admin_key}")

    with grpc.insecure_channel(f"127.0.0.1:{server.app.service.grpc_port}") as channel:

        def call(verb, **fields):
            ask = channel.unary_unary(
                f"/{SERVICE}/RepositoryModel{verb}",
                request_serializer=MESSAGES[f"RepositoryModel{verb}Request"].SerializeToString,
                response_deserializer=MESSAGES[f"RepositoryModel{verb}Response"].FromString,
            )
            return ask(MESSAGES[f"RepositoryModel{verb}Request"](**fields), timeout=30, metadata=[key])

        no = MESSAGES["ModelRepositoryParameter"](bool_param=False)
        call("Load", model_name=f"{MODEL}/versions/2")
        there = loaded(server.client)
        call("Unload", model_name=f"{MODEL}/versions/2", parameters={"unload_dependents": no})
        with pytest.raises(grpc.RpcError) as traffic:
            call("Unload", model_name=f"{MODEL}/versions/1")
        with pytest.raises(grpc.RpcError) as other:
            call("Load", model_name=MODEL, repository_name="elsewhere")

    assert there == ["1", "2"]
    assert loaded(server.client) == ["1"]
    assert traffic.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert (other.value.code(), "repository_name: expected none" in other.value.details()) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        True,
    )
