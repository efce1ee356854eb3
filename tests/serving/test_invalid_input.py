"""Every endpoint, asked wrongly: an error that says what is wrong, and the service goes on."""

import base64
import json

import grpc
import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from serving.v2.datatypes import DTYPES
from serving.v2.grpc_messages import METHODS
from tests.serving.bundles import RED
from tests.serving.servers import app_of, serving
from tests.serving.tensor_bundles import make_tensor_bundle
from tests.serving.v2.test_grpc import Client, images

COLOURS, SUMS = "colours", "sums"
_SETTINGS = {"deadline": None, "derandomize": True, "suppress_health_check": [HealthCheck.function_scoped_fixture]}


@pytest.fixture(scope="module")
def server(bundle, tmp_path_factory):
    tensors = make_tensor_bundle(tmp_path_factory.mktemp("bundles") / SUMS)
    models = f"{bundle},{tensors}"
    with serving(app_of(models, grpc_port=0, max_body_bytes=200_000, body_timeout_ms=2000)) as running:
        yield running


@pytest.fixture(scope="module")
def grpc_client(server):
    client = Client(server.app.service.grpc_port)
    yield client
    client.channel.close()


# No file of a format that is read begins so.
no_pictures = st.binary(max_size=200).map(lambda content: b"\0" + content)
# What opens is never closed.
no_json = st.text('[{":,1.eE+-tfnuls\\ é', max_size=50).map(lambda text: ("{" + text).encode())
bad_names = st.text(st.characters(exclude_characters="/?#:", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=9)


def as_text(content):
    return base64.b64encode(content).decode()


def v2_image(content):
    parameters = {"content_type": "base64"}
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "parameters": parameters, "data": [as_text(content)]}
    return {"inputs": [tensor]}


def v2(**fields):
    tensor = {"name": "pixels", "shape": [1, 1, 1, 3], "datatype": "UINT8", "data": [1, 2, 3], **fields}
    return {"json": {"inputs": [tensor]}}


def asks(path, *bodies):
    return st.one_of(*bodies).map(lambda body: ("POST", path, body))


V2, V1 = f"/v2/models/{COLOURS}/infer", f"/v1/models/{COLOURS}"
json_bodies = no_json.map(lambda body: {"content": body})
invalid = st.one_of(
    asks(f"/predict?model_name={COLOURS}", no_pictures.map(lambda content: {"content": content})),
    asks(
        f"/predict/batch?model_name={COLOURS}",
        st.lists(no_pictures, min_size=1, max_size=3).map(
            lambda several: {"files": [("files", one) for one in several]}
        ),
    ),
    asks("/predict?model_name=sums", st.binary(max_size=20).map(lambda content: {"content": content})),
    asks(
        V2,
        json_bodies,
        no_pictures.map(lambda content: {"json": v2_image(content)}),
        no_pictures.map(lambda content: {"content": content, "headers": {"Inference-Header-Content-Length": "0"}}),
        st.integers(2, 9).map(lambda rows: v2(shape=[rows, 1, 1, 3])),
        st.sampled_from(sorted(set(DTYPES) - {"UINT8"})).map(lambda datatype: v2(datatype=datatype)),
        (st.integers(256) | st.integers(max_value=-1)).map(lambda value: v2(data=[1, 2, value])),
        bad_names.map(lambda name: v2(name=f"{name}?")),
    ),
    asks(
        f"/v2/models/{SUMS}/infer",
        json_bodies,
        st.integers(1, 4).map(lambda rows: v2(name="factor", shape=[rows], datatype="INT32", data=[1] * rows)),
    ),
    asks(
        f"{V1}:predict",
        json_bodies,
        no_pictures.map(lambda content: {"json": {"instances": [{"b64": as_text(content)}]}}),
        no_pictures.map(lambda content: {"json": {"inputs": {"image_bytes": [{"b64": as_text(content)}]}}}),
        bad_names.map(lambda name: {"json": {"signature_name": f"{name}?", "instances": [1]}}),
        st.lists(st.floats(0, 1), min_size=1, max_size=5).map(
            lambda row: {"json": {"signature_name": "tensor", "instances": [row]}}
        ),
    ),
    asks(
        f"{V1}:classify",
        no_pictures.map(lambda content: {"json": {"examples": [{"image_bytes": {"b64": as_text(content)}}]}}),
    ),
    asks(f"/v1/models/{SUMS}:predict", st.integers().map(lambda value: {"json": {"instances": [{"factor": value}]}})),
    st.builds(
        lambda name, pattern: ("POST", pattern.format(httpx.URL(f"http://a/{name}_").raw_path.decode()[1:]), {}),
        bad_names,
        st.sampled_from(["/v2/models/{}/infer", "/v1/models/{}:predict", "/v1/models/colours/versions/{}:predict"]),
    ),
    st.sampled_from([("GET", V2, {}), ("GET", f"{V1}:predict", {}), ("GET", "/predict", {}), ("DELETE", "/v2", {})]),
)  # fmt: skip


def sentence(answer):
    error = answer.json()["error"]
    return error if isinstance(error, str) else error["message"]


# Feature: deep-learning-pipeline, Property 15: Invalid input
@settings(max_examples=200, **_SETTINGS)
@given(wrong=invalid)
def test_an_invalid_request_gets_an_error_with_its_details_and_the_service_goes_on(server, wrong):
    method, path, body = wrong

    answer = server.client.request(method, path, **body)
    after = server.client.post(V2, json=v2_image(RED))

    assert 400 <= answer.status_code < 500, answer.text
    assert len(sentence(answer)) > 20
    assert after.json()["outputs"][1]["data"] == ["red"]


# Property 15 as above, over gRPC.
@settings(max_examples=100, **_SETTINGS)
@given(content=no_pictures, name=bad_names)
def test_an_invalid_call_gets_an_error_with_its_details_and_the_service_goes_on(grpc_client, content, name):
    assume(name != COLOURS)
    message = images(content)

    assert grpc_client.refused(message)[0] == "INVALID_ARGUMENT"
    message.model_name = name
    code, words = grpc_client.refused(message)
    assert (code, "expected 'colours' or 'sums'" in words) == ("NOT_FOUND", True)
    assert grpc_client("ModelInfer", images(RED)).outputs[1].name == "label"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(
            ["inputs", "outputs", "instances", "examples", "name", "shape", "datatype", "data", "parameters", "b64",
             "binary_data_size", "text", "image", "pixels", "input", "numbers", "factor", "image_bytes", "context"]
        ),
        inner,
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip
near_tensors = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["image", "pixels", "input", "numbers", "factor"]),
        "shape": st.lists(st.sampled_from([0, 1, 2, 3, 8]), max_size=5),
        "datatype": st.sampled_from([*DTYPES, "BYTES"]),
    },
    optional={
        "data": st.lists(st.integers(-1, 256) | st.floats(), max_size=6) | json_values,
        "parameters": st.fixed_dictionaries({}, optional={"binary_data_size": st.integers(0, 30) | json_values}),
    },
)
near_bodies = st.one_of(
    json_values,
    st.fixed_dictionaries({"inputs": st.lists(near_tensors, max_size=3)}),
    st.fixed_dictionaries({"signature_name": st.sampled_from(["tensor", "pixels"]), "instances": json_values}),
).map(lambda values: json.dumps(values).encode())
LOAD = f"/v2/repository/models/{COLOURS}/load"
paths = st.sampled_from(
    [
        V2, f"/v2/models/{SUMS}/infer", f"/v2/models/{COLOURS}/versions/3/infer", f"{V1}:predict", f"{V1}:classify",
        f"{V1}:regress", f"/v1/models/{SUMS}:predict", "/predict", f"/predict?model_name={COLOURS}", "/predict/batch",
        "/v2", "/v2/models/stats", "/v2/repository/index", LOAD, "/v2/logging",
        f"{V1}/metadata", V1,
    ]
)  # fmt: skip
segments = st.sampled_from(["v1", "v2", "models", COLOURS, "versions", "labels", "3", "infer", "", ":predict", "é"])
# The client would take what begins with "//" for another host.
paths |= st.lists(segments).map(lambda parts: "/" + "/".join(parts)).filter(lambda path: not path.startswith("//"))
headers = st.fixed_dictionaries(
    {},
    optional={
        "Content-Type": st.sampled_from(
            ["application/json", "image/png", "multipart/form-data", "multipart/form-data; boundary=x", "text/plain"]
        ),
        "Content-Encoding": st.sampled_from(["gzip", "deflate", "br", "identity"]),
        "Accept-Encoding": st.sampled_from(["gzip", "deflate;q=0", "*"]),
        "Inference-Header-Content-Length": st.integers(-1, 60).map(str) | st.sampled_from(["", "x"]),
        "X-Timeout-Ms": st.sampled_from(["1000", "-1", "nan", "x"]),
        "X-Request-ID": st.sampled_from(["a", "a b", "x" * 200]),
    },
)


@settings(max_examples=400, **_SETTINGS)
@given(
    method=st.sampled_from(["POST", "POST", "POST", "GET", "PUT", "HEAD"]),
    path=paths,
    headers=headers,
    body=near_bodies | st.binary(max_size=100) | no_json,
)
def test_whatever_is_sent_is_answered_and_never_with_500(server, method, path, headers, body):
    answer = server.client.request(method, path, headers=headers, content=body, timeout=10)

    # Without keys nobody may change what is loaded, and everybody all the rest.
    refused = (403,) if path == LOAD else ()
    assert answer.status_code in (200, 307, 400, 404, 405, 408, 413, 415, 429, 503, 504, *refused), answer.text
    if answer.status_code >= 400 and method != "HEAD":
        assert sentence(answer)


@settings(max_examples=150, **_SETTINGS)
@given(method=st.sampled_from(METHODS), body=st.binary(max_size=100))
def test_whatever_is_called_is_answered_and_never_as_internal(grpc_client, method, body):
    call = grpc_client.channel.unary_unary(f"/inference.GRPCInferenceService/{method}")

    try:
        call(body, timeout=10)
    except grpc.RpcError as error:
        code, words = error.code().name, error.details()
    else:
        code, words = "OK", ""

    assert code in ("OK", "INVALID_ARGUMENT", "NOT_FOUND", "PERMISSION_DENIED"), (code, words)


@settings(max_examples=100, **_SETTINGS)
@given(rows=arrays.arrays(np.float32, (1, 8, 8, 3), elements=st.floats(width=32), fill=st.floats(width=32)))
def test_rows_of_any_numbers_are_answered_or_refused(server, rows):
    tensor = {"name": "input", "shape": [1, 8, 8, 3], "datatype": "FP32", "parameters": {"binary_data_size": 768}}
    header = json.dumps({"inputs": [tensor]}).encode()

    answer = server.client.post(
        V2, content=header + rows.tobytes(), headers={"Inference-Header-Content-Length": str(len(header))}
    )

    assert answer.status_code in (200, 400), answer.text
