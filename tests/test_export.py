import json

import keras
import numpy as np
import pytest
import tensorflow as tf
import yaml

from tests.convert.random_models import LABELS, config_of, random_parts
from tests.full_disk import files_of_at_most
from tests.image_files import encoded, picture
from tfpipe.core.errors import ConfigError, ConversionError
from tfpipe.core.parity import BOUNDS, assert_parity
from tfpipe.decode import decode_image
from tfpipe.export import (
    KerasReference,
    export_saved_model,
    load_float32,
    preprocessing_from_json,
    preprocessing_to_json,
)
from tfpipe.verify.saved_model import load_saved_model

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def parts():
    return random_parts(config_of("model.name=small_cnn", "preprocessing.image_size=[12,10]"))


@pytest.fixture(scope="module")
def saved_model(parts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved_model") / "3"
    export_saved_model(parts, folder)
    return folder


@pytest.fixture(scope="module")
def signatures(saved_model):
    return load_saved_model(saved_model).signatures


def images(count=3, size=(21, 30)):
    return np.stack([picture(*size, seed) for seed in range(count)])


# The reference.


def test_the_reference_answers_as_predict_does(parts):
    expected = parts.model.predict(images().astype(np.float32), verbose=0)

    received = np.stack([KerasReference(parts).probabilities(image) for image in images()])

    assert_parity(received, expected, BOUNDS["fp32"], where="reference")


def test_the_reference_in_two_steps_is_the_reference_in_one(parts):
    reference = KerasReference(parts)
    rows = np.stack([reference.rows(image) for image in images()])

    received = reference.probabilities_of_rows(rows)

    assert rows.shape == (3, 12, 10, 3)
    assert_parity(received, np.stack([reference.probabilities(i) for i in images()]), BOUNDS["fp32"], where="steps")


# The SavedModel.


def test_a_saved_model_has_the_signatures_that_clients_know(signatures):
    taken = {
        name: {key: (spec.dtype.name, spec.shape.as_list()) for key, spec in f.structured_input_signature[1].items()}
        for name, f in signatures.items()
    }
    given = {
        key: (spec.dtype.name, spec.shape.as_list()) for key, spec in signatures["tensor"].structured_outputs.items()
    }

    assert taken == {
        "serving_default": {"image_bytes": ("string", [None])},
        "pixels": {"pixels": ("uint8", [None, None, None, 3])},
        "tensor": {"input": ("float32", [None, 12, 10, 3])},
    }
    assert given == {"probabilities": ("float32", [None, 3]), "label": ("string", [None]), "score": ("float32", [None])}


def test_files_of_several_sizes_and_formats_go_into_one_request(parts, signatures):
    pictures = [picture(20, 31, 1), picture(7, 9, 2), picture(64, 40, 3), picture(1, 1, 4)]
    contents = [encoded(pixels, kind) for pixels, kind in zip(pictures, ("PNG", "JPEG", "BMP", "GIF"), strict=True)]
    reference = KerasReference(parts)
    expected = np.stack([reference.probabilities(decode_image(content)) for content in contents])

    answer = signatures["serving_default"](image_bytes=tf.constant(contents))

    assert_parity(answer["probabilities"].numpy(), expected, BOUNDS["fp32"], where="bytes")
    assert answer["label"].numpy().tolist() == [LABELS[index].encode() for index in expected.argmax(axis=1)]
    np.testing.assert_allclose(answer["score"].numpy(), expected.max(axis=1), atol=1e-4)


def test_pixels_and_rows_get_keras_answers(parts, signatures):
    reference = KerasReference(parts)
    expected = np.stack([reference.probabilities(image) for image in images()])
    rows = np.stack([reference.rows(image) for image in images()])

    for answer in (signatures["pixels"](pixels=tf.constant(images())), signatures["tensor"](input=tf.constant(rows))):
        assert_parity(answer["probabilities"].numpy(), expected, BOUNDS["fp32"], where="pixels")


def test_what_tensorflow_cannot_decode_is_its_own_error_and_not_an_answer(signatures):
    for content in (b"", b"no image", encoded(picture(), "WEBP")):
        with pytest.raises(tf.errors.InvalidArgumentError):
            signatures["serving_default"](image_bytes=tf.constant([content]))


def test_each_weight_is_stored_once(parts, saved_model):
    stored = sum(path.stat().st_size for path in (saved_model / "variables").iterdir())

    assert stored < 1.1 * sum(weight.nbytes for weight in parts.model.get_weights())


def test_layers_of_training_are_out_of_the_exported_model(tmp_path):
    config = config_of("model.name=mlp", "model.dropout=0.5", "preprocessing.image_size=[8,8]")
    parts = random_parts(config)
    export_saved_model(parts, tmp_path / "1")
    pixels = load_saved_model(tmp_path / "1").signatures["pixels"]

    answers = [pixels(pixels=tf.constant(images()))["probabilities"].numpy() for _ in range(3)]

    np.testing.assert_array_equal(answers[0], answers[1])
    np.testing.assert_array_equal(answers[0], answers[2])


def test_a_folder_that_cannot_be_written_is_a_conversion_error(parts, tmp_path):
    (tmp_path / "file").write_text("mine")

    with pytest.raises(ConversionError, match="expected to write a SavedModel, but: "):
        export_saved_model(parts, tmp_path / "file" / "1")


def test_a_full_disk_is_told_in_the_words_of_the_system(parts, tmp_path):
    with files_of_at_most(100), pytest.raises(OSError, match=r"^\[Errno \d+\] [\w ]+$"):
        export_saved_model(parts, tmp_path / "1")


# Float32.


def save_under(policy, path, name="small_cnn"):
    before = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_global_policy(policy)
    try:
        parts = random_parts(config_of(f"model.name={name}", "preprocessing.image_size=[12,10]"))
        parts.model.save(path)
    finally:
        keras.mixed_precision.set_global_policy(before)
    return parts


def test_a_float32_model_is_taken_as_it_is(tmp_path):
    saved = save_under("float32", tmp_path / "model.keras")

    loaded, policy = load_float32(tmp_path / "model.keras")

    assert policy == "float32"
    for one, two in zip(loaded.model.get_weights(), saved.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_a_model_trained_in_mixed_precision_is_rebuilt_in_float32_with_the_same_weights(tmp_path, policy):
    saved = save_under(policy, tmp_path / "model.keras")

    loaded, trained_policy = load_float32(tmp_path / "model.keras")

    assert trained_policy == policy
    assert {layer.compute_dtype for layer in loaded.network.layers} == {"float32"}
    for one, two in zip(loaded.model.get_weights(), saved.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, two)
    assert loaded.labels == saved.labels


def test_a_file_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "model.keras").write_bytes(b"PK no archive")

    with pytest.raises(ConfigError, match=r"model\.keras: expected a model\.keras"):
        load_float32(tmp_path / "model.keras")


# preprocessing.json.


def test_preprocessing_json_holds_the_layers_and_the_settings_they_came_from(parts):
    config = config_of("preprocessing.image_size=[12,10]").preprocessing
    text = preprocessing_to_json(parts.preprocessing, config)

    document = json.loads(text)
    _, read = preprocessing_from_json(text)

    assert list(document["layers"]) == ["resize", "augmentation", "rescale", "normalization"]
    assert document["layers"]["resize"]["config"]["height"] == 12
    assert document["config"]["image_size"] == [12, 10]
    assert read == config
    # Plain data: anything that reads JSON or YAML can read it.
    assert yaml.safe_load(text) == document
