"""Preprocessing, network and probabilities as one model; weights from files."""

import keras
import numpy as np
import pytest

from tests.full_disk import files_of_at_most
from tests.image_files import picture
from tests.models.assembled import assembled, config_of
from tfpipe.core.errors import ConfigError
from tfpipe.models.assembly import build_network, build_preprocessing, known_normalization, load_model
from tfpipe.models.zoo import Normalization
from tfpipe.training.artifacts import save_model

pytestmark = pytest.mark.tensorflow


def weights_of(network):
    return [weight.numpy() for weight in network.weights]


def equal(first, second):
    return all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_model_takes_bytes_and_floats_of_any_size():
    parts = assembled()
    names = [layer.name for layer in parts.model.layers]

    assert names == ["image", "resize", "augmentation", "rescale", "normalization", "network", "probabilities"]
    for size in ((5, 9), (8, 8), (31, 3)):
        image = picture(*size, seed=1)[None]
        answer = np.asarray(parts.model(image, training=False))
        assert answer.shape == (1, 3)
        assert answer.dtype == np.float32
        assert answer.sum() == pytest.approx(1.0, abs=1e-6)
        np.testing.assert_array_equal(answer, parts.model(image.astype(np.float32), training=False))


def test_rows_are_resized_scaled_and_normalised():
    config = config_of(image_size=(4, 4))
    preprocessing = build_preprocessing(config.preprocessing, Normalization((0.1, 0.2, 0.3), (0.5, 0.25, 0.2)))
    image = np.full((1, 9, 7, 3), (51, 102, 204), np.uint8)

    rows = np.asarray(preprocessing.rows(image))

    expected = (np.array([0.2, 0.4, 0.8]) - [0.1, 0.2, 0.3]) / [0.5, 0.25, 0.2]
    np.testing.assert_allclose(rows, np.broadcast_to(expected, (1, 4, 4, 3)), rtol=1e-5)


@pytest.mark.parametrize(
    ("preprocessing", "expected"),
    [
        ({"normalization": "none"}, Normalization((0.0,), (1.0,))),
        ({"normalization": "imagenet"}, Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))),
        ({"normalization": "fixed", "mean": [0.5], "std": [0.25]}, Normalization((0.5,), (0.25,))),
        ({"normalization": "auto"}, None),
        ({"normalization": "adapt"}, None),
    ],
)
def test_normalisation_is_what_the_configuration_says(preprocessing, expected):
    assert known_normalization(config_of("small_cnn", preprocessing=preprocessing)) == expected


def test_a_network_that_brings_its_own_normalisation_refuses_another():
    with pytest.raises(ConfigError, match=r"preprocessing.normalization: model 'resnet50' brings its own"):
        known_normalization(config_of("resnet50", preprocessing={"normalization": "imagenet"}))


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_preprocessing_and_probabilities_stay_in_float32_under_mixed_precision(policy):
    keras.mixed_precision.set_global_policy(policy)
    try:
        parts = assembled(config_of("small_cnn"))
    finally:
        keras.mixed_precision.set_global_policy("float32")

    assert parts.network.layers[1].compute_dtype == policy.removeprefix("mixed_")
    for name in ("resize", "augmentation", "rescale", "normalization", "probabilities"):
        assert parts.model.get_layer(name).compute_dtype == "float32"
    assert parts.network.layers[-1].compute_dtype == "float32"


# Saved models ---------------------------------------------------------------------------------------------------------


def test_a_saved_model_is_read_back_into_its_parts(tmp_path):
    parts = assembled(config_of("small_cnn"), labels=("a", "b/c", "日本"))
    parts.model.save(tmp_path / "model.keras")
    image = picture(11, 17, seed=2)[None]

    again = load_model(tmp_path / "model.keras")

    assert again.labels == parts.labels
    np.testing.assert_array_equal(again.model(image, training=False), parts.model(image, training=False))
    np.testing.assert_array_equal(again.preprocessing.rows(image), parts.preprocessing.rows(image))
    assert equal(weights_of(again.network), weights_of(parts.network))


def test_on_a_full_disk_no_half_model_is_left(tmp_path):
    with pytest.raises(OSError) as failed, files_of_at_most(3000):
        save_model(assembled(), tmp_path / "model.keras")

    assert failed.value.filename == str(tmp_path / "model.keras")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"no model", b"PK\x03\x04 half a zip"])
def test_a_file_that_is_no_model_is_refused(tmp_path, content):
    (tmp_path / "model.keras").write_bytes(content)

    with pytest.raises(ConfigError, match=r"model.keras: expected a model.keras, received a file that Keras cannot"):
        load_model(tmp_path / "model.keras")


def test_a_cut_model_is_refused(tmp_path):
    assembled().model.save(tmp_path / "whole.keras")
    content = (tmp_path / "whole.keras").read_bytes()
    (tmp_path / "model.keras").write_bytes(content[: len(content) // 2])

    with pytest.raises(ConfigError, match=r"model.keras: expected a model.keras, received a file that Keras cannot"):
        load_model(tmp_path / "model.keras")


def test_a_model_of_another_program_is_refused_by_what_it_lacks(tmp_path):
    inputs = keras.Input((4, 4, 3))
    keras.Model(inputs, keras.layers.Flatten()(inputs)).save(tmp_path / "other.keras")

    with pytest.raises(ConfigError, match=r"other.keras: expected a model that tfpipe saved, .* lacks the layers res"):
        load_model(tmp_path / "other.keras")


def test_a_missing_model_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere.keras: expected a model.keras, found no file"):
        load_model(tmp_path / "nowhere.keras")


# model.weights --------------------------------------------------------------------------------------------------------


def with_weights(path, name="small_cnn", num_classes=3):
    return build_network(config_of(name, model={"weights": str(path)}), num_classes)


@pytest.mark.parametrize("form", ["model.keras of a run", "network alone", "weights.h5"])
def test_weights_come_from_a_local_file(tmp_path, form):
    parts = assembled(config_of("small_cnn"))
    if form == "model.keras of a run":
        path = tmp_path / "model.keras"
        parts.model.save(path)
    elif form == "network alone":
        path = tmp_path / "network.keras"
        parts.network.save(path)
    else:
        path = tmp_path / "network.weights.h5"
        parts.network.save_weights(path)

    network = with_weights(path)

    assert equal(weights_of(network), weights_of(parts.network))
    assert not equal(weights_of(build_network(config_of("small_cnn"), 3)), weights_of(parts.network))


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_with_other_classes_the_head_alone_keeps_its_initial_weights(tmp_path, suffix):
    source = build_network(config_of("small_cnn"), 3)
    path = tmp_path / f"network{suffix}"
    source.save(path) if suffix == ".keras" else source.save_weights(path)

    network = with_weights(path, num_classes=5)

    assert network.output_shape == (None, 5)
    *backbone, kernel, bias = weights_of(network)
    assert equal(backbone, weights_of(source)[:-2])
    assert kernel.shape == (128, 5)
    assert np.ptp(kernel) > 0
    assert not bias.any()


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
def test_weights_of_another_model_are_refused(tmp_path, suffix):
    source = build_network(config_of("mlp"), 3)
    path = tmp_path / f"other{suffix}"
    source.save(path) if suffix == ".keras" else source.save_weights(path)

    with pytest.raises(ConfigError, match=r"model.weights: .*other") as refused:
        with_weights(path)

    assert "\n" not in str(refused.value)


def test_weights_of_the_same_model_at_another_size_are_refused_by_name(tmp_path):
    build_network(config_of("mlp", (6, 6)), 3).save(tmp_path / "small.keras")

    with pytest.raises(ConfigError, match=r"model.weights: dense128/kernel: expected shape \(192, 128\), .* \(108, 12"):
        with_weights(tmp_path / "small.keras", "mlp")


@pytest.mark.parametrize("content", [b"", b"no weights"])
@pytest.mark.parametrize("name", ["broken.keras", "broken.weights.h5", "broken.pt"])
def test_a_file_without_weights_is_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)

    with pytest.raises(ConfigError, match=f"model.weights: .*{name}") as refused:
        with_weights(tmp_path / name)

    assert "\n" not in str(refused.value)


def test_a_missing_file_of_weights_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"model.weights: expected `random`, `imagenet` or a file, found no file at"):
        with_weights(tmp_path / "nowhere.keras")
