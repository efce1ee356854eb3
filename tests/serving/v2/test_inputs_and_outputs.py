"""Tensors of the Open Inference Protocol to a model's inputs, and its answers to tensors."""

import json

import numpy as np
import pytest

from serving.errors import InvalidRequestError, RequestError
from serving.v2.datatypes import datatype_of
from serving.v2.documents import model_config, model_metadata, server_metadata
from serving.v2.inputs import feeds_of, inputs_of
from serving.v2.messages import InferRequest, Tensor, WantedOutput
from serving.v2.outputs import check_outputs, given_names, outputs_of, tensor_of, wants_features
from tests.serving.models import IMAGES, TAGS, TENSORS, TEXTS, Model, answered, row

PIXELS = 10_000
ASKED = InferRequest([Tensor("image", "BYTES", (1,), [b"a"])])


def array(name, values):
    return Tensor(name, datatype_of(values.dtype), values.shape, values)


def strings(name, *values, shape=None):
    return Tensor(name, "BYTES", shape or (len(values),), list(values))


def ask(model, *tensors):
    return inputs_of(model, InferRequest(list(tensors)), max_image_pixels=PIXELS)


def test_files_pixels_and_rows_are_inputs():
    pixels = np.zeros((2, 3, 4, 3), np.uint8)

    assert ask(IMAGES, strings("image", b"a", b"b")) == [b"a", b"b"]
    assert [one.shape for one in ask(IMAGES, array("pixels", pixels))] == [(3, 4, 3)] * 2
    assert [one.shape for one in ask(IMAGES, array("input", np.zeros((2, 8, 8, 3), np.float32)))] == [(8, 8, 3)] * 2
    assert ask(TEXTS, strings("text", b"a")) == [b"a"]


@pytest.mark.parametrize(
    ("model", "tensors", "words"),
    [
        (IMAGES, [strings("text", b"a")], "inputs: expected one of image, pixels, input of model 'colours'"),
        (TEXTS, [array("pixels", np.zeros((1, 2, 2, 3), np.uint8))], "expected one of text of model"),
        (IMAGES, [strings("image", b"a"), array("pixels", np.zeros((1, 2, 2, 3), np.uint8))], "'image', 'pixels'"),
        (IMAGES, [strings("image", b"a", shape=(1, 1))], r"image: expected shape \[-1\]"),
        (IMAGES, [strings("image")], "expected one row or more"),
        (IMAGES, [strings("image", *[b""] * 257)], "expected at most 256 rows, received 257"),
        (IMAGES, [array("image", np.zeros(3, np.uint8))], "expected 'image' as BYTES, received UINT8"),
        (IMAGES, [array("pixels", np.zeros((1, 2, 2, 3), np.float32))], "expected 'pixels' as UINT8, received FP32"),
        (IMAGES, [array("pixels", np.zeros((1, 2, 2, 4), np.uint8))], "shape .rows, height, width, 3."),
        (IMAGES, [array("pixels", np.zeros((1, 0, 2, 3), np.uint8))], "received uint8 of shape"),
        (IMAGES, [array("pixels", np.zeros((1, 101, 100, 3), np.uint8))], "at most 10000 pixels an image"),
        (IMAGES, [array("input", np.zeros((1, 8, 8, 4), np.float32))], r"float32 of shape \(batch, 8, 8, 3\)"),
        (IMAGES, [array("input", np.zeros((8, 8, 3), np.float32))], r"received float32 of shape \(8, 8, 3\)"),
    ],
)
def test_other_tensors_are_refused(model, tensors, words):
    with pytest.raises(RequestError, match=words):
        ask(model, *tensors)


def test_named_tensors_are_fed_by_name():
    numbers, factor = np.zeros((2, 3), np.float32), np.zeros(2, np.int32)

    feeds = feeds_of(TENSORS, InferRequest([array("factor", factor), array("numbers", numbers)]))

    assert {name: given.shape for name, given in feeds.items()} == {"numbers": (2, 3), "factor": (2,)}


@pytest.mark.parametrize(
    ("numbers", "factor", "words"),
    [
        (np.zeros((2, 3), np.float32), np.zeros(3, np.int32), "expected 2 along 'batch'"),
        (np.zeros((2, 3), np.float32), np.zeros(2, np.int64), "expected 'factor' as INT32, received INT64"),
        (np.zeros(2, np.float32), np.zeros(2, np.int32), "input 'numbers': expected float32 of shape"),
    ],
)
def test_tensors_that_the_model_does_not_take_are_refused(numbers, factor, words):
    with pytest.raises(InvalidRequestError, match=words):
        feeds_of(TENSORS, InferRequest([array("numbers", numbers), array("factor", factor)]))


def test_a_tensor_of_another_name_is_refused():
    with pytest.raises(InvalidRequestError, match="expected numbers, factor of model 'sums', received 'x'"):
        feeds_of(TENSORS, InferRequest([array("x", np.zeros(1))]))
    with pytest.raises(InvalidRequestError, match="expected numbers, factor; received factor"):
        feeds_of(TENSORS, InferRequest([array("factor", np.zeros(1, np.int32))]))


def test_classes_are_probabilities_label_and_score():
    probabilities, label, score = outputs_of(IMAGES, ASKED, [row(0.5, 0.25, 0.25), row(0, 0.25, 0.75)])

    assert (probabilities.shape, probabilities.datatype) == ((2, 3), "FP32")
    assert (label.elements, label.shape) == ([b"red", b"blue"], (2,))
    assert score.elements.tolist() == [0.5, 0.75]


def test_outputs_come_in_the_order_in_which_they_are_wanted():
    model = Model(gives_features=True)
    request = InferRequest(ASKED.tensors, outputs=[WantedOutput("features"), WantedOutput("label")])

    features, label = outputs_of(model, request, [row(1, 0, 0, features=np.ones(4, np.float32))])

    assert wants_features(request)
    assert (features.shape, label.name) == ((1, 4), "label")
    assert not wants_features(InferRequest([]))


def test_the_best_classes_are_given_as_triton_gives_them():
    request = InferRequest(ASKED.tensors, outputs=[WantedOutput("probabilities", classes=2)])

    (best,) = outputs_of(IMAGES, request, [row(0.25, 0.5, 0.25)])

    assert best.elements == [b"0.500000:1:green", b"0.250000:0:red"]
    assert best.shape == (1, 2)


def test_entities_are_json():
    (entities,) = outputs_of(
        TAGS, InferRequest([]), [answered(np.zeros((1, 3), np.float32), answer={"entities": [{"text": "Zoë"}]})]
    )

    assert [json.loads(one) for one in entities.elements] == [[{"text": "Zoë"}]]


@pytest.mark.parametrize(
    ("output", "words"),
    [
        (WantedOutput("logits"), "outputs: expected probabilities, label, score, received 'logits'"),
        (WantedOutput("label", classes=1), "expected classification of 'probabilities' alone"),
    ],
)
def test_outputs_that_the_model_does_not_give_are_refused(output, words):
    with pytest.raises(InvalidRequestError, match=words):
        check_outputs(given_names(IMAGES), InferRequest([], outputs=[output]))


def test_strings_of_a_model_are_bytes():
    assert tensor_of("x", np.array(["a", "ö"], object)).elements == [b"a", "ö".encode()]


def test_the_metadata_list_the_input_that_everybody_can_send():
    metadata = model_metadata(IMAGES, ["3"])

    assert metadata["inputs"] == [{"name": "image", "datatype": "BYTES", "shape": [-1]}]
    assert [one["name"] for one in metadata["outputs"]] == ["probabilities", "label", "score"]
    assert metadata["outputs"][0] == {"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]}
    assert model_metadata(TENSORS, [])["inputs"][0] == {"name": "numbers", "datatype": "FP32", "shape": [-1, -1]}
    assert model_metadata(TAGS, [])["outputs"] == [{"name": "entities", "datatype": "BYTES", "shape": [-1]}]


def test_the_configuration_lists_all_inputs_as_optional():
    config = model_config(IMAGES, max_batch_size=8)

    assert [(one["name"], one["data_type"], one["dims"]) for one in config["input"]] == [
        ("image", "TYPE_STRING", [-1]),
        ("pixels", "TYPE_UINT8", [-1, -1, -1, 3]),
        ("input", "TYPE_FP32", [-1, 8, 8, 3]),
    ]
    assert all(one["optional"] for one in config["input"])
    assert "optional" not in model_config(TENSORS, max_batch_size=8)["input"][0]
    assert "binary_tensor_data" in server_metadata()["extensions"]
