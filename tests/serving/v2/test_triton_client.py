"""NVIDIA's tritonclient, as it is published, asks the service over HTTP and gRPC."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from serving.v2.grpc_messages import MESSAGES
from tests.serving.bundles import RED, reference
from tests.serving.registered import Store
from tests.serving.servers import app_of, serving
from tests.targets import triton

_ENUMERATION = 14  # of FieldDescriptorProto.Type
_SCRIPT = Path(__file__).with_name("triton_calls.py")


@pytest.fixture(scope="module", autouse=True)
def needs_client():
    if not triton.is_installed():
        pytest.skip("no tritonclient here; scripts/triton_env.sh makes its environment")


def run(*arguments, content=b""):
    command = [triton.ENVIRONMENT / "bin" / "python", _SCRIPT, *arguments]
    done = subprocess.run(command, input=content, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def running(bundle):
    with serving(app_of(bundle, grpc_port=0)) as server:
        yield server


@pytest.fixture(scope="module", params=["http", "grpc"])
def protocol(request):
    return request.param


@pytest.fixture(scope="module")
def results(running, protocol):
    port = running.port if protocol == "http" else running.app.service.grpc_port
    return run(protocol, f"127.0.0.1:{port}", content=RED)


def test_every_kind_of_input_is_answered(results):
    assert results["labels"] == ["red", "red"]
    np.testing.assert_allclose(results["probabilities"], [reference(RED).reshape(-1)] * 2, atol=0.02)
    assert results["id"] == "abc"
    assert results["pixels"] == results["rows"] == results["gzip"] == ["blue", "green"]
    assert results["best"][0] == "0:red"
    assert len(results["best"]) == 4


def test_http_goes_without_bytes_and_packed(results, protocol):
    if protocol == "http":
        assert results["json"] == results["deflate"] == ["blue", "green"]


def test_health_and_documents_are_read(results):
    assert (results["live"], results["ready"], results["model_ready"]) == (True, True, True)
    assert results["other_ready"] in (False, "StatusCode.NOT_FOUND")
    assert results["server"]["name"] == "tfpipe"
    assert results["metadata"]["inputs"][0]["name"] == "image"
    config = results["config"].get("config", results["config"])
    assert [one["name"] for one in config["input"]] == ["image", "pixels", "input"]
    assert config["input"][1]["data_type"] == "TYPE_UINT8"
    statistics = results["statistics"]["model_stats"][0]
    assert statistics["name"] == "colours"
    # Numbers of 64 bits are strings in the JSON of messages.
    sizes = {int(one["batch_size"]): int(one["compute_infer"]["ns"]) for one in statistics["batch_stats"]}
    assert 2 in sizes
    assert all(ns > 0 for ns in sizes.values())
    index = results["index"]["models"] if isinstance(results["index"], dict) else results["index"]
    assert (index[0]["name"], index[0]["state"]) == ("colours", "READY")


@pytest.mark.parametrize(
    ("call", "http", "grpc", "words"),
    [
        ("unknown", "404", "NOT_FOUND", "model_name: expected 'colours', received 'other'"),
        ("wrong", "400", "INVALID_ARGUMENT", "image: expected a JPEG"),
        ("late", "504", "DEADLINE_EXCEEDED", "deadline: expected an answer"),
        ("shared_memory", "400", "INVALID_ARGUMENT", "calls"),
        ("unload", "403", "PERMISSION_DENIED", "expected"),
    ],
)
def test_an_error_says_what_is_wrong(results, protocol, call, http, grpc, words):
    status, message = results[call]

    assert status == (http if protocol == "http" else f"StatusCode.{grpc}")
    assert words in message


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return Store(tmp_path_factory.mktemp("store"), [{}, {}])


def test_versions_are_loaded_and_unloaded(store, protocol, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    with store.served(grpc_port=0) as server:
        port = server.port if protocol == "http" else server.app.service.grpc_port
        results = run(protocol, f"127.0.0.1:{port}", store.admin_key)

    assert results["before"] == results["unloaded"] == [False, ["1"]]
    assert results["loaded"] == [True, ["1", "2"]]
    refused = {
        "traffic": ("409", "FAILED_PRECONDITION", "expected one without traffic"),
        "whole": ("400", "INVALID_ARGUMENT", "expected NAME/versions/VERSION"),
        "unknown": ("404", "NOT_FOUND", "9"),
        "config": ("400", "INVALID_ARGUMENT", "parameters: expected none, received 'config'"),
        "no_key": ("401", "UNAUTHENTICATED", "API key"),
    }
    for call, (http, grpc, words) in refused.items():
        status, message = results[call]
        assert status == (http if protocol == "http" else f"StatusCode.{grpc}"), call
        assert words in message


def test_our_messages_are_the_published_ones():
    published = run("messages")

    for name, message in MESSAGES.items():
        for field in message.DESCRIPTOR.fields:
            number, kind, is_repeated = published[name][field.name]
            # An enumeration travels as the number that we take it for.
            ours = _ENUMERATION if field.name == "data_type" else field.type
            assert (field.number, ours, field.label == field.LABEL_REPEATED) == (number, kind, is_repeated), field.name
