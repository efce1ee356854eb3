"""Answers as TensorFlow Serving writes them."""

import json

import numpy as np
import pytest

from serving.errors import InvalidRequestError
from serving.tfserving.answers import (
    check_classifies,
    columns_of,
    model_metadata,
    model_status,
    write_classify,
    write_predict,
)
from tests.serving.models import IMAGES, TAGS, TENSORS, TEXTS, answered, row


def written(columns, *, in_rows):
    return json.loads(write_predict(columns, in_rows=in_rows))


def test_rows_are_objects_and_columns_are_arrays():
    columns = columns_of(IMAGES, [row(0.5, 0.25, 0.25), row(0, 0.25, 0.75)])

    assert written(columns, in_rows=True) == {
        "predictions": [
            {"probabilities": [0.5, 0.25, 0.25], "label": "red", "score": 0.5},
            {"probabilities": [0, 0.25, 0.75], "label": "blue", "score": 0.75},
        ]
    }
    assert written(columns, in_rows=False) == {
        "outputs": {
            "probabilities": [[0.5, 0.25, 0.25], [0, 0.25, 0.75]],
            "label": ["red", "blue"],
            "score": [0.5, 0.75],
        }
    }


def test_a_single_output_goes_without_its_name():
    assert written({"y": np.array([3.5, 4.0])}, in_rows=True) == {"predictions": [3.5, 4.0]}
    assert written({"y": np.array([3.5, 4.0])}, in_rows=False) == {"outputs": [3.5, 4.0]}


def test_special_numbers_and_binary_strings_are_written():
    assert write_predict({"y": np.array([np.nan, np.inf])}, in_rows=True) == b'{"predictions":[NaN,Infinity]}'
    rows = {"a": np.array([np.nan], np.float16), "b_bytes": np.array([b"hi"], object), "c": np.array([True])}
    assert write_predict(rows, in_rows=True) == b'{"predictions":[{"a":NaN,"b_bytes":{"b64":"aGk="},"c":true}]}'


def test_outputs_of_unlike_length_have_no_rows():
    with pytest.raises(InvalidRequestError, match="one length along their first axis; ask it by inputs"):
        write_predict({"a": np.zeros(2), "b": np.zeros(3)}, in_rows=True)
    with pytest.raises(InvalidRequestError, match="ask it by inputs"):
        write_predict({"a": np.float32(2) * np.ones(())}, in_rows=True)


def test_tags_of_texts_are_brought_to_one_length():
    long, short = np.eye(3, dtype=np.float32)[[0, 1, 2]], np.eye(3, dtype=np.float32)[[1]]

    columns = columns_of(TAGS, [answered(long), answered(short)])

    assert columns["probabilities"].shape == (2, 3, 3)
    assert columns["label"].tolist() == [["O", "B-PER", "I-PER"], ["B-PER", "", ""]]


def test_classes_are_pairs():
    body = write_classify(TEXTS, [row(0.25, 0.75)])

    assert json.loads(body) == {"result": [[["glad", 0.25], ["sad", 0.75]]]}
    for model in (TENSORS, TAGS):
        with pytest.raises(InvalidRequestError, match="expected a model that gives classes"):
            check_classifies(model)


def test_the_status_is_the_documented_one():
    assert model_status([("123", "AVAILABLE", "")]) == {
        "model_version_status": [
            {"version": "123", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        ]
    }


def test_the_metadata_are_those_of_an_exported_model():
    metadata = model_metadata(IMAGES)
    signatures = metadata["metadata"]["signature_def"]["signature_def"]

    assert metadata["model_spec"] == {"name": "colours", "signature_name": "", "version": "3"}
    assert list(signatures) == ["serving_default", "pixels", "tensor"]
    assert signatures["serving_default"]["inputs"]["image_bytes"] == {
        "dtype": "DT_STRING",
        "tensor_shape": {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False},
        "name": "serving_default_image_bytes:0",
    }
    assert signatures["tensor"]["outputs"]["probabilities"]["tensor_shape"]["dim"][1]["size"] == "3"
    assert model_metadata(TENSORS)["model_spec"]["version"] == "1"
