"""What each protocol sends, as the other side reads it."""

import asyncio
import base64
import functools
import json
import struct
from collections.abc import Callable
from urllib.parse import urlsplit

import grpc
import grpc.aio
import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from hypothesis import given
from hypothesis import strategies as st

from tests.bench.http_servers import HEALTH, Answering, Asked, answering
from tfpipe.bench.asking import AskedModel, Asking, Sample
from tfpipe.bench.grpc_asking import GrpcAsking
from tfpipe.bench.http_asking import PredictAsking, TensorFlowServingAsking, V2Asking, V2BinaryAsking
from tfpipe.core.errors import ConfigError
from tfpipe.core.signature import TensorSpec

METADATA = {
    "name": "sums",
    "inputs": [{"name": "a", "datatype": "FP32", "shape": [-1, 3]}, {"name": "n", "datatype": "INT64", "shape": [2]}],
}
TENSORS = AskedModel("sums", None, "tensors", (TensorSpec("a", "float32", ("any", 3)), TensorSpec("n", "int64", (2,))))
ARRAYS = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array([7, 8])}
IMAGE, TEXT = AskedModel("m", None, "image"), AskedModel("m/1", "3", "text")
TF_METADATA = {
    "inputs": {"text": {"dtype": "DT_STRING", "tensor_shape": {"dim": [{"size": "-1", "name": ""}]}}},
}
DOCUMENTS = {
    "/health": HEALTH,
    "/v2/repository/index": [{"name": "sums", "state": "READY"}],
    "/v2/models/sums": METADATA,
    "/v1/models/digits/metadata": {"metadata": {"signature_def": {"signature_def": {"serving_default": TF_METADATA}}}},
}


@pytest.fixture(scope="module")
def server():
    with answering(Answering(documents=DOCUMENTS)) as running:
        yield running


def sent(server, make: Callable[..., Asking], model: AskedModel, sample: Sample) -> Asked:
    """What arrives at a real server."""

    async def send() -> None:
        asking = make(urlsplit(server.url), {"X-Mine": "yes"}, timeout_s=10.0)
        channel = asking.open_channel()
        reply = await channel.exchange(asking.render(model, sample))
        channel.close()
        assert reply.ok

    asyncio.run(send())
    return server.asked[-1]


def described(server, make: Callable[..., Asking], name: str | None = None) -> AskedModel:
    return asyncio.run(make(urlsplit(server.url), {}, timeout_s=10.0).describe(name, None))


def test_predict_sends_the_image_as_the_body(server):
    asked = sent(server, PredictAsking, IMAGE, b"\x89PNG")

    assert (asked.path, asked.body) == ("/predict?model_name=m", b"\x89PNG")
    assert asked.headers["content-type"] == "application/octet-stream"
    assert asked.headers["x-mine"] == "yes"


def test_predict_sends_a_text_as_json(server):
    asked = sent(server, PredictAsking, TEXT, "São Paulo")

    assert asked.path == "/predict?model_name=m%2F1&model_version=3"
    assert json.loads(asked.body) == {"text": "São Paulo"}


def test_v2_sends_images_in_base64_and_arrays_as_lists(server):
    image = json.loads(sent(server, V2Asking, IMAGE, b"\xff\x00").body)["inputs"]
    asked = sent(server, V2Asking, TENSORS, ARRAYS)

    assert image == [
        {
            "name": "image", "datatype": "BYTES", "shape": [1], "parameters": {"content_type": "base64"},
            "data": [base64.b64encode(b"\xff\x00").decode()],
        }
    ]  # fmt: skip
    assert asked.path == "/v2/models/sums/infer"
    assert json.loads(asked.body)["inputs"] == [
        {"name": "a", "datatype": "FP32", "shape": [2, 3], "data": [0, 1, 2, 3, 4, 5]},
        {"name": "n", "datatype": "INT64", "shape": [2], "data": [7, 8]},
    ]


def test_the_binary_extension_has_the_tensors_after_a_header_of_the_length_it_says(server):
    asked = sent(server, V2BinaryAsking, TENSORS, ARRAYS)

    length = int(asked.headers["inference-header-content-length"])
    header = json.loads(asked.body[:length])
    assert header["parameters"] == {"binary_data_output": True}
    assert [one["parameters"]["binary_data_size"] for one in header["inputs"]] == [24, 16]
    assert asked.body[length:] == struct.pack("<6f2q", *range(6), 7, 8)


@given(text=st.text())
def test_a_string_in_binary_has_its_length_before_it(text):
    asking = V2BinaryAsking(urlsplit("http://127.0.0.1:1"), {}, timeout_s=1.0)

    body = asking.render(TEXT, text).partition(b"\r\n\r\n")[2]

    content = text.encode("utf-8")
    assert body.endswith(struct.pack("<I", len(content)) + content)


def test_tensorflow_serving_gets_rows_of_images_and_columns_of_tensors(server):
    image = sent(server, TensorFlowServingAsking, IMAGE, b"\xff")
    text = sent(server, TensorFlowServingAsking, TEXT, "hello")
    arrays = sent(server, TensorFlowServingAsking, TENSORS, ARRAYS)

    assert (image.path, json.loads(image.body)) == ("/v1/models/m:predict", {"instances": [{"b64": "/w=="}]})
    assert (text.path, json.loads(text.body)) == ("/v1/models/m%2F1/versions/3:predict", {"instances": ["hello"]})
    assert json.loads(arrays.body) == {"inputs": {"a": [[0, 1, 2], [3, 4, 5]], "n": [7, 8]}}


def test_models_are_described_by_the_server(server):
    assert described(server, PredictAsking) == AskedModel("digits", None, "image")
    assert described(server, V2Asking) == TENSORS
    assert described(server, TensorFlowServingAsking) == AskedModel("digits", None, "text")


def test_a_model_that_is_not_served_is_refused_with_those_that_are(server):
    with pytest.raises(ConfigError, match="expected model 'cats'; it serves digits"):
        described(server, PredictAsking, "cats")
    with pytest.raises(ConfigError, match=r"/v2/models/cats to be answered, received 404: .*no such path"):
        described(server, V2Asking, "cats")


@functools.cache
def messages() -> dict[str, type]:
    """The protocol's messages by protobuf itself, of its field numbers."""
    file = descriptor_pb2.FileDescriptorProto(name="bench.proto", package="inference", syntax="proto3")
    kinds = descriptor_pb2.FieldDescriptorProto

    def message(name: str, *fields: tuple[str, int, str]) -> None:
        one = file.message_type.add(name=name)
        for field, number, kind in fields:
            repeated = kind.startswith("*")
            made = one.field.add(name=field, number=number)
            made.label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
            plain = {"string": kinds.TYPE_STRING, "bytes": kinds.TYPE_BYTES, "int64": kinds.TYPE_INT64}
            made.type = plain.get(kind.lstrip("*"), kinds.TYPE_MESSAGE)
            if made.type == kinds.TYPE_MESSAGE:
                made.type_name = f".inference.{kind.lstrip('*')}"

    message("Tensor", ("name", 1, "string"), ("datatype", 2, "string"), ("shape", 3, "*int64"))
    message("Infer", ("model_name", 1, "string"), ("model_version", 2, "string"), ("inputs", 5, "*Tensor"),
            ("raw_input_contents", 7, "*bytes"))  # fmt: skip
    message("Metadata", ("name", 1, "string"), ("versions", 2, "*string"), ("inputs", 4, "*Tensor"))
    message("Entry", ("name", 1, "string"))
    message("Index", ("models", 1, "*Entry"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    names = ("Infer", "Metadata", "Index", "Tensor", "Entry")
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"inference.{name}")) for name in names}


@given(
    name=st.text(min_size=1, max_size=300),
    arrays=st.dictionaries(
        st.text(min_size=1, max_size=10),
        st.lists(st.integers(0, 5), max_size=4).map(lambda shape: np.ones(shape, np.float32)),
        min_size=1,
        max_size=3,
    ),
)
def test_protobuf_reads_our_grpc_requests(name, arrays):
    asking = GrpcAsking(urlsplit("http://127.0.0.1:1"), {}, timeout_s=1.0)

    request = messages()["Infer"].FromString(asking.render(AskedModel(name, "2", "tensors"), arrays))

    assert (request.model_name, request.model_version) == (name, "2")
    assert [(one.name, one.datatype, tuple(one.shape)) for one in request.inputs] == [
        (key, "FP32", array.shape) for key, array in arrays.items()
    ]
    assert list(request.raw_input_contents) == [array.tobytes() for array in arrays.values()]


def test_a_grpc_server_is_described_asked_and_its_errors_are_named():
    made = messages()
    refused = []

    class Handlers(grpc.GenericRpcHandler):
        def service(self, details):
            method = details.method.rpartition("/")[2]

            async def answer(request, context):
                if method == "RepositoryIndex":
                    return made["Index"](models=[made["Entry"](name="sums")]).SerializeToString()
                if method == "ModelMetadata":
                    tensor = made["Tensor"](name="a", datatype="FP32", shape=[-1, 3])
                    return made["Metadata"](name="sums", versions=["1"], inputs=[tensor]).SerializeToString()
                if refused:
                    await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full")
                return b""

            return grpc.unary_unary_rpc_method_handler(answer)

    async def ask():
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((Handlers(),))
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            asking = GrpcAsking(urlsplit(f"http://127.0.0.1:{port}"), {"X-API-Key": "k"}, timeout_s=10.0)
            model = await asking.describe(None, None)
            channel = asking.open_channel()
            request = asking.render(model, {"a": np.ones((1, 3), np.float32)})
            first = await channel.exchange(request)
            refused.append(True)
            second = await channel.exchange(request)
            channel.close()
            await asyncio.sleep(0)
        finally:
            await server.stop(0)
        return model, first, second

    model, first, second = asyncio.run(ask())

    assert model == AskedModel("sums", None, "tensors", (TensorSpec("a", "float32", ("any", 3)),))
    assert (first.outcome, first.ok) == ("OK", True)
    assert (second.outcome, second.ok, second.body) == ("RESOURCE_EXHAUSTED", False, b"the queue is full")


def test_a_grpc_service_that_is_away_is_told():
    with pytest.raises(ConfigError, match="expected ModelMetadata to be answered over gRPC, received unreachable"):
        asyncio.run(GrpcAsking(urlsplit("http://127.0.0.1:1"), {}, timeout_s=5.0).describe("m", None))


def test_a_service_that_is_still_loading_is_told():
    with (
        answering(Answering(documents={"/health": {"status": "loading", "models": []}})) as loading,
        pytest.raises(ConfigError, match=r"expected a model, but it serves none\. Is it still loading"),
    ):
        described(loading, PredictAsking)
