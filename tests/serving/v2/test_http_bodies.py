"""Bodies of the Open Inference Protocol: JSON, binary, raw."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from serving.errors import InvalidRequestError, RequestError
from serving.v2.datatypes import DTYPES, datatype_of, join_bytes
from serving.v2.http_bodies import HEADER_LENGTH, bytes_to_read, read_infer, write_infer
from serving.v2.inputs import raw_inputs
from serving.v2.messages import InferRequest, Tensor, WantedOutput
from tests.serving.models import IMAGES, TENSORS
from tfpipe.core.signature import TensorSpec

some_arrays = st.sampled_from(sorted(DTYPES)).flatmap(
    lambda name: arrays.arrays(DTYPES[name], arrays.array_shapes(min_dims=1, max_dims=4, max_side=4))
)
some_tensors = some_arrays.map(lambda array: Tensor("t", datatype_of(array.dtype), array.shape, array)) | st.lists(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20).map(str.encode), max_size=5
).map(lambda elements: Tensor("t", "BYTES", (len(elements),), elements))


def read(header, rest=b"", inputs=()):
    content = json.dumps(header).encode()
    headers = {HEADER_LENGTH: str(len(content)).encode()} if rest else {}
    return read_infer(headers, content + rest, inputs=inputs)


def one(**fields):
    return {"inputs": [{"name": "x", "shape": [2], "datatype": "INT32", "data": [1, 2], **fields}]}


def binary(content, **fields):
    tensor = {
        "name": "x",
        "shape": [2],
        "datatype": "INT32",
        "parameters": {"binary_data_size": len(content)},
        **fields,
    }
    return read({"inputs": [tensor]}, content)


@settings(max_examples=150, deadline=None)
@given(
    tensors=st.lists(some_tensors, min_size=1, max_size=4), is_binary=st.lists(st.booleans(), min_size=4, max_size=4)
)
def test_tensors_come_back_as_json_and_as_bytes(tensors, is_binary):
    for index, tensor in enumerate(tensors):
        tensor.name = f"t{index}"
    wanted = [WantedOutput(tensor.name, flag) for tensor, flag in zip(tensors, is_binary, strict=False)]
    request = InferRequest([], id="7", outputs=wanted)

    body, length = write_infer(model_name="m", model_version="3", request=request, outputs=tensors)
    content = json.loads(body[:length])
    # What is answered has the form of what is asked.
    header = json.dumps({"inputs": content["outputs"], "id": content["id"]}).encode()
    headers = {} if length is None else {HEADER_LENGTH: str(len(header)).encode()}
    again = read_infer(headers, header + (b"" if length is None else body[length:]), inputs=())

    assert (again.id, content["model_name"], content["model_version"]) == ("7", "m", "3")
    for tensor, other in zip(tensors, again.tensors, strict=True):
        assert (tensor.name, tensor.datatype, tensor.shape) == (other.name, other.datatype, other.shape)
        np.testing.assert_array_equal(tensor.elements, other.elements)


def test_a_tensor_of_bytes_is_a_view_into_the_body():
    request = binary(np.array([1, 2], np.int32).tobytes())

    assert not request.tensors[0].elements.flags.owndata
    assert request.tensors[0].elements.tolist() == [1, 2]


def test_data_may_be_nested_or_flat():
    nested = read(one(shape=[2, 2], data=[[1, 2], [3, 4]]))
    flat = read(one(shape=[2, 2], data=[1, 2, 3, 4]))

    np.testing.assert_array_equal(nested.tensors[0].elements, flat.tensors[0].elements)


def test_images_in_json_are_base64():
    (tensor,) = read(one(datatype="BYTES", data=["aGk=", ""], parameters={"content_type": "base64"})).tensors

    assert tensor.elements == [b"hi", b""]


def test_outputs_and_parameters_are_read():
    request = read(
        {
            **one(),
            "id": "a",
            "outputs": [
                {"name": "p", "parameters": {"binary_data": False, "classification": 2}},
                {"name": "q"},
            ],
            "parameters": {"timeout": 1500, "binary_data_output": True, "anything": [1]},
        }
    )

    assert request.outputs == [WantedOutput("p", False, 2), WantedOutput("q", True, 0)]
    assert (request.id, request.timeout_s, request.is_binary) == ("a", 0.0015, True)


def test_a_body_without_a_header_is_the_only_input():
    request = read_infer({HEADER_LENGTH: b"0"}, b"\x89PNG", inputs=raw_inputs(IMAGES))
    rows = read_infer({HEADER_LENGTH: b"0"}, bytes(2 * 8 * 8 * 3 * 4), inputs=IMAGES.inputs)
    lines = read_infer({HEADER_LENGTH: b"0"}, bytes(12), inputs=[TensorSpec("x", "int32", ("batch", "length"))])

    assert request.tensors == [Tensor("image", "BYTES", (1,), [b"\x89PNG"])]
    assert request.is_binary
    assert (rows.tensors[0].shape, lines.tensors[0].shape) == ((2, 8, 8, 3), (1, 3))


@pytest.mark.parametrize(
    ("inputs", "body", "words"),
    [
        (TENSORS.inputs, b"abcd", "as the model has the inputs"),
        (IMAGES.inputs, b"abc", "with one length to be told from theirs, received 3"),
        ([TensorSpec("x", "int32", ("batch", "a", "b"))], b"abcd", "with one length"),
    ],
)
def test_a_body_whose_shape_cannot_be_told_is_refused(inputs, body, words):
    with pytest.raises(InvalidRequestError, match=words):
        read_infer({HEADER_LENGTH: b"0"}, body, inputs=inputs)


@pytest.mark.parametrize(
    ("json_part", "length", "expected"),
    [
        (b'{"datatype": "INT8"}', b"20", 20),
        (b"", b"0", 0),
        # Texts are looked at one by one, however they are spelt.
        (b'{"datatype": "BYTES"}', b"21", 121),
        (b'{"datatype": "\\u0042YTES"}', b"26", 126),
        (b'{"datatype": "INT8"}', b"", 120),
        (b'{"datatype": "INT8"}', b"9" * 5000, 120),
    ],
)
def test_of_a_body_only_what_is_no_plain_number_takes_time(json_part, length, expected):
    # The word may well stand among the numbers.
    body = json_part + b"BYTES".ljust(100, b"\0")

    assert bytes_to_read({HEADER_LENGTH: length}, body) == expected


def test_of_a_body_that_is_json_all_takes_time():
    assert bytes_to_read({}, b"{}") == 2


@pytest.mark.parametrize("length", [b"99", b"-1", b"x", b"", b"9" * 5000])
def test_a_header_length_beyond_the_body_is_refused(length):
    with pytest.raises(InvalidRequestError, match="Inference-Header-Content-Length: expected 0 to 2"):
        read_infer({HEADER_LENGTH: length}, b"{}", inputs=())


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({}, "inputs: expected an array of tensors, received null"),
        ({"inputs": []}, "inputs: expected at least one tensor"),
        ({"inputs": [3]}, r"inputs\[0\]: expected an object, received a number"),
        (one(name=""), r"inputs\[0\].name: expected a name"),
        (one(shape=3), "expected a shape, received a number"),
        (one(shape=[-1]), "expected a shape of whole numbers, received -1"),
        (one(shape=[True]), "expected a shape of whole numbers, received True"),
        (one(shape=[2**62, 2**62]), "expected .* elements of shape .* received 2"),
        (one(shape=[0, 2**62], data=[]), "expected a shape that an array can have"),
        (one(shape=[1] * 70 + [2]), "expected a shape that an array can have"),
        (one(shape=[3]), r"expected 3 elements of shape \[3\], received 2"),
        (one(shape=[2, 1], data=[[1, 2]]), r"expected data of shape \[2, 1\] or flat, received \[1, 2\]"),
        (one(datatype="INT33"), "expected a datatype of BOOL, .* received 'INT33'"),
        (one(datatype=["a"] * 1000), "received an array"),
        (one(data="abc"), "expected data as an array, received a string"),
        (one(data=[1, 2.5]), "expected whole numbers, received 2.5"),
        (one(datatype="BYTES"), r"data\[0\]: expected a string, received a number"),
        (one(datatype="BYTES", data=["a", "b"], parameters={"content_type": "hex"}), "expected content_type base64"),
        (one(parameters=[1]), "parameters: expected an object, received an array"),
        (one(parameters={"binary_data_size": 8}), "expected data or parameters.binary_data_size, received both"),
        (one(parameters={"shared_memory_region": "r"}), "tensors travel in the body"),
        ({"inputs": [{"name": "x", "shape": [1], "datatype": "INT32"}]}, "received neither"),
        ({"inputs": one()["inputs"] * 2}, "inputs: expected each name once, received 'x' more often"),
        ({**one(), "id": 5}, "id: expected a string"),
        ({**one(), "outputs": {"name": "x"}}, "outputs: expected an array, received an object"),
        ({**one(), "outputs": [{}]}, r"outputs\[0\]: expected an object with a name"),
        ({**one(), "outputs": [{"name": "a"}, {"name": "a"}]}, "outputs: expected each name once"),
        ({**one(), "outputs": [{"name": "a", "parameters": {"classification": -1}}]}, "expected classification"),
        ({**one(), "parameters": {"timeout": -1}}, "parameters.timeout: expected whole microseconds, received -1"),
        ({**one(), "parameters": {"timeout": 0.5}}, "parameters.timeout: expected whole microseconds"),
        ({**one(), "parameters": {"sequence_id": 7}}, "models keep no state between requests"),
        ({**one(), "parameters": {"binary_data_output": 1}}, "expected true or false, received 1"),
    ],
)
def test_what_the_protocol_does_not_say_is_refused(header, words):
    with pytest.raises(InvalidRequestError, match=words):
        read(header)


@pytest.mark.parametrize(
    ("content", "fields", "words"),
    [
        (bytes(8), {"shape": [3]}, "expected 3 elements"),
        (bytes(7), {}, "expected whole elements of int32, received 7 bytes"),
        (bytes(8), {"parameters": {"binary_data_size": 9}}, "expected 9 bytes after its JSON"),
        (bytes(8), {"parameters": {"binary_data_size": "8"}}, "received '8'"),
        (bytes(8), {"shape": [1], "parameters": {"binary_data_size": 4}}, "expected 4 bytes after its JSON"),
        (b"\1\2", {"datatype": "BOOL"}, "expected BOOL as bytes 0 or 1, received 2"),
        (join_bytes([b"a"]), {"datatype": "BYTES"}, "expected 2 elements"),
    ],
)
def test_bytes_that_are_not_the_tensor_are_refused(content, fields, words):
    with pytest.raises(InvalidRequestError, match=words):
        binary(content, **fields)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
near_tensors = st.fixed_dictionaries(
    {},
    optional={
        "name": st.just("x") | json_values,
        "shape": st.lists(st.integers(-1, 4), max_size=3) | json_values,
        "datatype": st.sampled_from([*DTYPES, "BYTES"]) | json_values,
        "data": st.lists(st.integers(), max_size=4) | json_values,
        "parameters": st.fixed_dictionaries({}, optional={"binary_data_size": st.integers(-1, 9)}) | json_values,
    },
)


@settings(max_examples=150, deadline=None)
@given(
    inputs=st.lists(near_tensors, max_size=3) | json_values,
    more=st.dictionaries(st.sampled_from(["id", "outputs", "parameters"]), json_values),
    rest=st.binary(max_size=20),
)
def test_anything_near_a_request_is_one_or_is_refused(inputs, more, rest):
    refused, tensors = "", []
    try:
        tensors = read({"inputs": inputs, **more}, rest).tensors
    except RequestError as error:
        refused = str(error)

    assert bool(tensors) != bool(refused)
    assert len(refused) < 2000
