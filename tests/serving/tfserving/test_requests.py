"""Bodies of :predict and :classify, those that TensorFlow Serving's documentation shows among them."""

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.errors import InvalidRequestError, RequestError
from serving.tfserving.inputs import feeds_of, inputs_of
from serving.tfserving.requests import read_classify, read_predict
from tests.serving.models import IMAGES, TENSORS, TEXTS
from tfpipe.core.signature import TensorSpec

PIXELS = 10_000
# The tensors of the page's examples.
DOCUMENTED = replace(
    TENSORS,
    inputs=(
        TensorSpec("tag", "object", ("batch",)),
        TensorSpec("signal", "float32", ("batch", 5)),
        TensorSpec("sensor", "float32", ("batch", 2, 2)),
    ),
)
HALF_PLUS_THREE = replace(TENSORS, inputs=(TensorSpec("x", "float32", ("batch",)),))


def predict(model, values):
    return read_predict(model, values if isinstance(values, bytes) else json.dumps(values).encode())


def classify(model, values):
    return read_classify(model, json.dumps(values).encode())


def test_the_documented_rows_and_columns_are_one_request():
    rows = predict(
        DOCUMENTED,
        b"""{"instances": [
            {"tag": "foo", "signal": [1, 2, 3, 4, 5], "sensor": [[1, 2], [3, 4]]},
            {"tag": "bar", "signal": [3, 4, 1, 2, 5], "sensor": [[4, 5], [6, 8]]}
        ]}""",
    )
    columns = predict(
        DOCUMENTED,
        b"""{"inputs": {
            "tag": ["foo", "bar"],
            "signal": [[1, 2, 3, 4, 5], [3, 4, 1, 2, 5]],
            "sensor": [[[1, 2], [3, 4]], [[4, 5], [6, 8]]]
        }}""",
    )

    assert (rows.in_rows, columns.in_rows) == (True, False)
    for name, array in rows.arrays.items():
        np.testing.assert_array_equal(array, columns.arrays[name])
    assert rows.arrays["tag"].tolist() == [b"foo", b"bar"]
    assert rows.arrays["sensor"].shape == (2, 2, 2)


def test_the_documented_scalars_are_a_request():
    assert predict(HALF_PLUS_THREE, b'{"instances": [1.0,2.0,5.0]}').arrays["x"].tolist() == [1, 2, 5]
    assert predict(HALF_PLUS_THREE, {"inputs": [1]}).arrays["x"].tolist() == [1]
    assert predict(HALF_PLUS_THREE, {"inputs": {"x": [1]}}).arrays["x"].tolist() == [1]
    assert predict(HALF_PLUS_THREE, {"instances": [{"x": 1}]}).arrays["x"].tolist() == [1]
    assert np.isnan(predict(HALF_PLUS_THREE, b'{"instances": [NaN]}').arrays["x"][0])


@pytest.mark.parametrize(
    "values",
    [
        {"instances": [{"b64": "aGk="}]},
        {"instances": [{"image_bytes": {"b64": "aGk="}}]},
        {"inputs": [{"b64": "aGk="}]},
        {"inputs": {"image_bytes": [{"b64": "aGk="}]}, "signature_name": "serving_default"},
    ],
)
def test_an_image_is_base64_in_each_form(values):
    assert inputs_of(IMAGES, predict(IMAGES, values), max_image_pixels=PIXELS) == [b"hi"]


def test_pixels_rows_and_texts_are_inputs():
    pixels = inputs_of(
        IMAGES,
        predict(IMAGES, {"signature_name": "pixels", "instances": np.zeros((2, 3, 4, 3), int).tolist()}),
        max_image_pixels=PIXELS,
    )
    rows = inputs_of(
        IMAGES,
        predict(IMAGES, {"signature_name": "tensor", "instances": [{"input": np.zeros((8, 8, 3)).tolist()}]}),
        max_image_pixels=PIXELS,
    )
    texts = inputs_of(TEXTS, predict(TEXTS, {"instances": ["schön", {"b64": "aGk="}]}), max_image_pixels=PIXELS)

    assert [(one.shape, one.dtype) for one in pixels] == [((3, 4, 3), np.uint8)] * 2
    assert [(one.shape, one.dtype) for one in rows] == [((8, 8, 3), np.float32)]
    assert texts == ["schön".encode(), b"hi"]


def test_named_tensors_are_fed_by_name():
    given = {"instances": [{"numbers": [1, 2], "factor": 3}, {"numbers": [4, 5], "factor": 6}]}

    feeds = feeds_of(TENSORS, predict(TENSORS, given))

    assert {name: array.tolist() for name, array in feeds.items()} == {"numbers": [[1, 2], [4, 5]], "factor": [3, 6]}


def test_the_documented_examples_are_classified():
    both = replace(
        TENSORS, inputs=(TensorSpec("image", "object", ("batch",)), TensorSpec("caption", "object", ("batch",)))
    )
    request = read_classify(
        both,
        b"""{
            "examples": [
                {"image": {"b64": "aW1hZ2UgYnl0ZXM="}, "caption": "seaside"},
                {"image": {"b64": "YXdlc29tZSBpbWFnZSBieXRlcw=="}, "caption": "mountains"}
            ]
        }""",
    )

    assert request.arrays["image"].tolist() == [b"image bytes", b"awesome image bytes"]
    assert request.arrays["caption"].tolist() == [b"seaside", b"mountains"]


def test_features_are_flat_and_may_stand_in_the_context():
    flat = np.arange(8 * 8 * 3.0)
    rows = classify(IMAGES, {"signature_name": "tensor", "examples": [{"input": flat.tolist()}]})
    shared = classify(TEXTS, {"context": {"text": ["a"]}, "examples": [{}, {}]})

    np.testing.assert_array_equal(rows.arrays["input"], flat.reshape(1, 8, 8, 3).astype(np.float32))
    assert shared.arrays["text"].reshape(-1).tolist() == [b"a", b"a"]


@pytest.mark.parametrize(
    ("model", "values", "words"),
    [
        (IMAGES, b"[]", "body: expected a JSON object, received an array"),
        (IMAGES, {}, "expected either instances or inputs, received none"),
        (IMAGES, {"instances": [], "inputs": []}, "received instances and inputs"),
        (IMAGES, {"instance": []}, "unknown key 'instance'"),
        (IMAGES, {"instances": []}, "instances: expected an array of at least one row"),
        (IMAGES, {"instances": 5}, "instances: expected an array of at least one row, received a number"),
        (IMAGES, {"instances": [{"b64": "?"}]}, "expected a base64 string"),
        (IMAGES, {"instances": [{"image": "a"}]}, r"instances\[0\]: expected image_bytes, received image"),
        (IMAGES, {"instances": [{"image_bytes": "a"}, 5]}, r"instances\[1\]: expected image_bytes, received a number"),
        (IMAGES, {"instances": [5]}, "expected a string, received a number"),
        (IMAGES, {"inputs": {"image_bytes": "a"}}, "expected an array, received a string"),
        (IMAGES, {"inputs": {}}, "inputs: expected image_bytes, received an empty object"),
        (IMAGES, {"signature_name": "raw", "instances": [1]}, "expected one of serving_default, pixels, tensor"),
        (IMAGES, {"signature_name": 5, "instances": [1]}, "received no string"),
        (IMAGES, {"instances": ["a"], "signature_name": "x" * 1000}, "received 'xxx"),
        (TENSORS, {"instances": [[1]]}, "instances: expected objects with numbers, factor, received an array"),
        (TENSORS, {"inputs": [[1]]}, "inputs: expected an object with numbers, factor"),
        (TENSORS, {"inputs": {"numbers": [[1], [2, 3]], "factor": [1, 2]}}, "ragged"),
        (TENSORS, {"inputs": {"numbers": [[1]], "factor": [1.5]}}, "expected whole numbers, received 1.5"),
    ],
)
def test_what_the_protocol_does_not_say_is_refused(model, values, words):
    with pytest.raises(InvalidRequestError, match=words):
        predict(model, values)


@pytest.mark.parametrize(
    ("model", "values", "words"),
    [
        (TEXTS, {"instances": [["a"]]}, r"text: expected shape \[-1\], one element a row; received \[1, 1\]"),
        (IMAGES, {"signature_name": "pixels", "instances": [[[[1, 2]]]]}, "expected uint8 of shape"),
        (IMAGES, {"signature_name": "pixels", "instances": [[[[]]]]}, "expected uint8 of shape"),
        (IMAGES, {"signature_name": "tensor", "instances": [[1]]}, r"expected float32 of shape \(batch, 8, 8, 3\)"),
        (IMAGES, {"signature_name": "tensor", "instances": [[]]}, "expected float32 of shape"),
        (TEXTS, {"instances": ["a"] * 257}, "expected at most 256 rows, received 257"),
        (
            IMAGES,
            {"signature_name": "pixels", "instances": np.zeros((1, 101, 100, 3), int).tolist()},
            "expected at most 10000 pixels an image, received 10100",
        ),
    ],
)
def test_a_shape_that_the_signature_does_not_say_is_refused(model, values, words):
    with pytest.raises(RequestError, match=words):
        inputs_of(model, predict(model, values), max_image_pixels=PIXELS)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"examples": []}, "examples: expected an array of at least one"),
        ({"examples": [5]}, r"examples\[0\]: expected an object, received a number"),
        ({"examples": [{"text": "a"}], "context": {"text": "b"}}, "features that the context has not"),
        ({"examples": [{"text": "a"}], "context": []}, "context: expected an object"),
        ({"examples": [{"text": ["a", "b"]}]}, "expected values for shape"),
        ({"examples": [{"words": "a"}]}, r"examples\[0\]: expected text, received words"),
        ({"instances": ["a"]}, "unknown key 'instances'"),
    ],
)
def test_examples_that_the_protocol_does_not_say_are_refused(values, words):
    with pytest.raises(InvalidRequestError, match=words):
        classify(TEXTS, values)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["b64", "text", "image_bytes", "input", "x"]), inner, max_size=3)
    ),
    max_leaves=10,
)


@settings(max_examples=200, deadline=None)
@given(
    model=st.sampled_from([IMAGES, TEXTS, TENSORS]),
    values=st.dictionaries(
        st.sampled_from(["instances", "inputs", "examples", "context", "signature_name"]),
        json_values | st.sampled_from(["tensor", "pixels"]),
        max_size=3,
    ),
    read=st.sampled_from([read_predict, read_classify]),
)
def test_anything_near_a_request_is_one_or_is_refused(model, values, read):
    refused = ""
    try:
        request = read(model, json.dumps(values).encode())
        (feeds_of(model, request) if model is TENSORS else inputs_of(model, request, max_image_pixels=PIXELS))
    except RequestError as error:
        refused = str(error)

    assert len(refused) < 3000
