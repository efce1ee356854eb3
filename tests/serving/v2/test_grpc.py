"""The gRPC service, asked with its own messages over a real socket."""

import concurrent.futures
import time

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from serving.errors import InvalidRequestError, RequestError
from serving.keys_command import create_key
from serving.v2.datatypes import DTYPES, datatype_of, join_bytes
from serving.v2.grpc_bodies import read_infer, write_infer
from serving.v2.grpc_messages import MESSAGES, SERVICE
from serving.v2.messages import InferRequest, Tensor
from tests.serving.bundles import RED
from tests.serving.certificates import make_pair
from tests.serving.servers import PATIENCE_S, app_of, serving
from tests.serving.tensor_bundles import make_tensor_bundle

Request = MESSAGES["ModelInferRequest"]


class Client:
    """Calls a service by method name."""

    def __init__(self, port):
        self.channel = grpc.insecure_channel(f"127.0.0.1:{port}", options=[("grpc.max_send_message_length", -1)])

    def __call__(self, method, message=None, **options):
        answer, self.call = self._method(method).with_call(
            message or MESSAGES[f"{method}Request"](), timeout=options.pop("timeout", PATIENCE_S), **options
        )
        return answer

    def start(self, method, message):
        return self._method(method).future(message, timeout=PATIENCE_S)

    def refused(self, message, **options):
        with pytest.raises(grpc.RpcError) as caught:
            self("ModelInfer", message, **options)
        return caught.value.code().name, caught.value.details()

    def _method(self, method):
        return self.channel.unary_unary(
            f"/{SERVICE}/{method}",
            request_serializer=MESSAGES[f"{method}Request"].SerializeToString,
            response_deserializer=MESSAGES[f"{method}Response"].FromString,
        )


@pytest.fixture(scope="module")
def client(bundle):
    with serving(app_of(bundle, grpc_port=0, max_body_bytes=1_000_000)) as running:
        client = Client(running.app.service.grpc_port)
        client.http = running.client
        yield client
        client.channel.close()


def of(name, datatype, *shape, **contents):
    return {"name": name, "datatype": datatype, "shape": shape, "contents": contents}


def images(*contents, **fields):
    return Request(
        model_name="colours", inputs=[of("image", "BYTES", len(contents), bytes_contents=contents)], **fields
    )


def test_contents_and_raw_contents_get_the_same_answer(client):
    raw = {"name": "image", "datatype": "BYTES", "shape": [1]}

    by_contents = client("ModelInfer", images(RED, id="7"))
    by_bytes = client(
        "ModelInfer", Request(model_name="colours", inputs=[raw], raw_input_contents=[join_bytes([RED])], id="7")
    )

    assert by_contents == by_bytes
    assert [one.name for one in by_contents.outputs] == ["probabilities", "label", "score"]
    assert by_contents.raw_output_contents[1] == join_bytes([b"red"])
    assert (by_contents.id, by_contents.model_name, by_contents.model_version) == ("7", "colours", "3")


def test_trailing_metadata_say_what_answered(client):
    client("ModelInfer", images(RED), metadata=[("x-request-id", "abc")])

    trailing = dict(client.call.trailing_metadata())
    assert (trailing["x-model-version"], trailing["x-request-id"]) == ("3", "abc")
    assert "run;dur=" in trailing["server-timing"]


def test_a_model_that_is_not_named_is_the_only_one(client):
    assert client("ModelInfer", Request(inputs=images(RED).inputs)).model_name == "colours"


@pytest.mark.parametrize(
    ("message", "code", "words"),
    [
        (Request(model_name="other"), "NOT_FOUND", "model_name: expected 'colours', received 'other'"),
        (images(RED, model_version="9"), "NOT_FOUND", "model_version: expected '3'"),
        (images(), "INVALID_ARGUMENT", "expected one row or more"),
        (Request(model_name="colours"), "INVALID_ARGUMENT", "expected at least one tensor"),
        (images(RED, b"?"), "INVALID_ARGUMENT", "row 1: image: expected a JPEG"),
        (images(RED, outputs=[{"name": "logits"}]), "INVALID_ARGUMENT", "received 'logits'"),
    ],
)
def test_an_error_has_its_status_and_sentence(client, message, code, words):
    given, details = client.refused(message)

    assert given == code
    assert words in details


def test_a_message_above_the_limit_is_refused(client):
    code, details = client.refused(images(bytes(1_000_001)))

    assert code == "RESOURCE_EXHAUSTED"
    assert "1000000" in details


def test_a_packed_bomb_is_refused(client):
    code, _ = client.refused(images(bytes(50_000_000)), compression=grpc.Compression.Gzip)

    assert code == "RESOURCE_EXHAUSTED"


def test_requests_are_counted_under_their_protocol(client):
    client("ModelInfer", images(RED))
    with pytest.raises(grpc.RpcError):
        client("ModelInfer", images(b"?"))

    text = client.http.get("/metrics").text
    assert 'code="200",model="colours",protocol="grpc"' in text
    assert 'code="400",model="colours",protocol="grpc"' in text


def test_many_requests_at_once_are_each_answered(client):
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(
            pool.map(lambda index: client.start("ModelInfer", images(RED, id=str(index))).result(), range(64))
        )

    assert [one.id for one in answers] == [str(index) for index in range(64)]


def test_named_tensors_are_answered(tmp_path):
    with serving(app_of(make_tensor_bundle(tmp_path / "sums"), grpc_port=0)) as running:
        client = Client(running.app.service.grpc_port)
        inputs = [
            of("numbers", "FP32", 2, 2, fp32_contents=[1, 2, 3, 4]),
            of("factor", "INT32", 2, int_contents=[1, 2]),
        ]
        answer = client("ModelInfer", Request(model_name="sums", inputs=inputs))
        client.channel.close()

    assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == [3, 14]


def test_a_client_that_leaves_is_not_answered_and_others_are(slow_bundle):
    with serving(app_of(slow_bundle, grpc_port=0)) as running:
        client = Client(running.app.service.grpc_port)
        left = [client.start("ModelInfer", images(RED)) for _ in range(3)]
        for one in left:
            one.cancel()
        code, _ = client.refused(images(RED), timeout=0.05)
        began_s = time.monotonic()
        answer = client("ModelInfer", images(RED))
        took_s = time.monotonic() - began_s
        client.channel.close()

    assert answer.raw_output_contents[1] == join_bytes([b"red"])
    assert code == "DEADLINE_EXCEEDED"
    assert took_s < PATIENCE_S


def test_a_draining_service_is_unavailable(bundle):
    with serving(app_of(bundle, grpc_port=0)) as running:
        client = Client(running.app.service.grpc_port)
        ready = client("ServerReady").ready
        running.app.service.status = "draining"
        unready, code = client("ServerReady").ready, client.refused(images(RED))[0]
        client.channel.close()

    assert (ready, unready, code) == (True, False, "UNAVAILABLE")


def test_calls_need_a_key_of_their_scope(bundle, tmp_path):
    file = tmp_path / "keys.yaml"
    key = create_key(file, {"name": "mobile", "scopes": ["predict"]})
    with serving(app_of(bundle, grpc_port=0, api_keys_file=file)) as running:
        client = Client(running.app.service.grpc_port)
        code, words = client.refused(images(RED))
        known = client("ModelInfer", images(RED), metadata=[("authorization", f"Bearer {key}")])
        live = client("ServerLive").live
        client.channel.close()

    assert (code, live) == ("UNAUTHENTICATED", True)
    assert "expected" in words
    assert known.outputs[1].name == "label"


def test_with_a_certificate_calls_are_encrypted(bundle, tmp_path):
    cert, key = make_pair(tmp_path)
    with serving(app_of(bundle, grpc_port=0, tls_cert_file=cert, tls_key_file=key)) as running:
        client = Client(running.app.service.grpc_port)
        plain, _ = client.refused(images(RED), timeout=5)
        client.channel.close()
        credentials = grpc.ssl_channel_credentials(cert.read_bytes())
        client.channel = grpc.secure_channel(f"localhost:{running.app.service.grpc_port}", credentials)
        answer = client("ModelInfer", images(RED))
        client.channel.close()

    assert plain == "UNAVAILABLE"
    assert answer.outputs[1].name == "label"


def test_a_large_message_is_answered_and_refused_as_a_small_one(client):
    pixels = np.zeros((1, 90, 90, 3), np.uint8)
    pixels[..., 0] = 250
    values = pixels.reshape(-1).tolist() * 4

    answer = client(
        "ModelInfer",
        Request(model_name="colours", inputs=[of("pixels", "UINT8", 4, 90, 90, 3, uint_contents=values)]),
    )
    refused = client.refused(
        Request(model_name="colours", inputs=[of("pixels", "UINT8", 4, 90, 90, 3, uint_contents=[*values[1:], 256])])
    )

    assert answer.raw_output_contents[1] == join_bytes([b"red"] * 4)
    assert refused == (
        "INVALID_ARGUMENT",
        "inputs[0] 'pixels': expected numbers of uint8, received one out of its range.",
    )


some_arrays = st.sampled_from(sorted(set(DTYPES) - {"FP16"})).flatmap(
    lambda name: arrays.arrays(DTYPES[name], arrays.array_shapes(max_dims=3, max_side=4))
)
FIELDS = {
    "BOOL": "bool_contents", "FP32": "fp32_contents", "FP64": "fp64_contents", "INT64": "int64_contents",
    "UINT64": "uint64_contents",
}  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(some_arrays)
def test_an_array_comes_back_from_its_contents_and_from_its_bytes(array):
    datatype = datatype_of(array.dtype)
    field = FIELDS.get(datatype, "uint_contents" if datatype.startswith("U") else "int_contents")

    one = of("x", datatype, *array.shape, **{field: array.reshape(-1).tolist()})
    (by_contents,) = read_infer(Request(inputs=[one])).tensors
    answer = write_infer(
        model_name="m", model_version=None, request=InferRequest([]),
        outputs=[Tensor("x", datatype, array.shape, array)],
    )  # fmt: skip
    inputs = [{"name": one.name, "datatype": one.datatype, "shape": one.shape} for one in answer.outputs]
    (by_bytes,) = read_infer(Request(inputs=inputs, raw_input_contents=answer.raw_output_contents)).tensors

    for tensor in (by_contents, by_bytes):
        np.testing.assert_array_equal(tensor.elements, array)
        assert tensor.elements.dtype == array.dtype


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"inputs": [of("x", "INT8", 1, int_contents=[128])]}, "expected numbers of int8"),
        ({"inputs": [of("x", "UINT8", 1, uint_contents=[256])]}, "expected numbers of uint8"),
        ({"inputs": [of("x", "FP16", 1)]}, "expected FP16 in raw_input_contents"),
        ({"inputs": [of("x", "BF16", 1)]}, "expected a datatype"),
        (
            {"inputs": [of("x", "INT32", 1, fp32_contents=[1])]},
            "expected int_contents for INT32, received fp32_contents",
        ),
        ({"inputs": [of("x", "INT32", 2, int_contents=[1])]}, "expected 2 elements"),
        ({"inputs": [of("x", "INT32", -1)]}, "received -1"),
        ({"inputs": [of("x", "INT32", 1, int_contents=[1])], "raw_input_contents": [bytes(4)]}, "received both"),
        ({"inputs": [of("x", "INT32", 1)], "raw_input_contents": [b"", b""]}, "expected one of each of 1 inputs"),
        (
            {"inputs": [{"name": "x", "datatype": "INT32", "shape": [1]}], "raw_input_contents": [b"abc"]},
            "whole elements",
        ),
        ({"inputs": [of("x", "INT32", 1, int_contents=[1])] * 2}, "each name once"),
    ],
)
def test_what_the_protocol_does_not_say_is_refused(fields, words):
    with pytest.raises(InvalidRequestError, match=words):
        read_infer(Request(**fields))


@settings(max_examples=150, deadline=None)
@given(
    inputs=st.lists(
        st.builds(
            of,
            st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
            st.sampled_from([*DTYPES, "BYTES", ""]),
            st.integers(-2, 4) | st.just(2**62),
            int_contents=st.lists(st.integers(-(2**31), 2**31 - 1), max_size=3),
        ),
        max_size=2,
    ),
    raw=st.lists(st.binary(max_size=9), max_size=2),
    timeout=st.integers(-(2**63), 2**63 - 1),
)
def test_anything_near_a_request_is_one_or_is_refused(inputs, raw, timeout):
    message = Request(inputs=inputs, raw_input_contents=raw)
    message.parameters["timeout"].int64_param = timeout
    refused, tensors = "", []
    try:
        tensors = read_infer(message).tensors
    except RequestError as error:
        refused = str(error)

    assert bool(tensors) != bool(refused)
