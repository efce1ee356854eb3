"""Presets and settings of models of texts, and functions of the user's."""

import sys

import keras
import numpy as np
import pytest

from tests.models.assembled import config_of
from tests.models.text_networks import (
    PAD,
    TOKENS,
    TRANSFORMERS,
    answers,
    randomised,
    text_config,
    text_network,
    token_rows,
)
from tfpipe.core.errors import ConfigError
from tfpipe.models.assembly import build_network
from tfpipe.models.backbones import FAMILIES
from tfpipe.models.text_zoo import TEXT_MODELS, Tokens, build_text_network

pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def presets(tmp_path_factory):
    """A small backbone of each family, saved as keras-nlp saves them."""
    folder = tmp_path_factory.mktemp("presets")
    backbones = {}
    for name in TRANSFORMERS:
        backbones[name] = randomised(
            FAMILIES[name](
                vocabulary_size=TOKENS.vocabulary_size, num_layers=1, num_heads=2, hidden_dim=6, intermediate_dim=10,
                dropout=0.2, max_sequence_length=24,
            )
        )  # fmt: skip
        backbones[name].save_to_preset(str(folder / name))
    return folder, backbones


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_a_preset_is_the_backbone_below_the_head_of_its_family(presets, name):
    folder, backbones = presets
    network = text_network(name, preset=str(folder / name))
    rows = token_rows(9, 4)
    inputs = {"token_ids": rows, "padding_mask": (rows != PAD).astype(np.int32)}
    if name == "bert":
        inputs["segment_ids"] = np.zeros_like(rows)

    output = backbones[name](inputs, training=False)
    if name == "bert":
        pooled = output["pooled_output"]
    else:
        pooled = network.get_layer("head_dense")(output[:, 0, :])
        assert network.get_layer("head_dense").activation.__name__ == {"roberta": "tanh", "distilbert": "relu"}[name]

    expected = np.asarray(network.get_layer("logits")(pooled))
    np.testing.assert_allclose(answers(network, rows), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_tags_come_from_the_last_layer_of_a_preset(presets, name):
    folder, backbones = presets
    network = text_network(name, per_token=True, preset=str(folder / name))
    rows = token_rows(9, 4)
    inputs = {"token_ids": rows, "padding_mask": (rows != PAD).astype(np.int32)}
    if name == "bert":
        inputs["segment_ids"] = np.zeros_like(rows)

    output = backbones[name](inputs, training=False)
    sequence = output["sequence_output"] if name == "bert" else output

    expected = np.asarray(network.get_layer("logits")(sequence))
    np.testing.assert_allclose(answers(network, rows), expected, rtol=1e-5, atol=1e-5)
    # What the head does not need would never learn.
    assert not [weight.path for weight in network.weights if "pooled" in weight.path]


def test_a_preset_trains_in_the_precision_of_the_run(presets):
    folder, _ = presets
    keras.mixed_precision.set_global_policy("mixed_bfloat16")
    try:
        network = text_network("bert", preset=str(folder / "bert"))
    finally:
        keras.mixed_precision.set_global_policy("float32")

    policies = {layer.name: layer.compute_dtype for layer in network.layers}
    assert policies["transformer_layer_0"] == "bfloat16"
    assert network.output.dtype == "float32"


def test_a_preset_of_another_family_is_refused(presets):
    folder, _ = presets

    with pytest.raises(ConfigError, match=r"model.preset: expected a bert preset of keras-nlp.*RobertaBackbone") as no:
        text_network("bert", preset=str(folder / "roberta"))

    assert "\n" not in str(no.value)


@pytest.mark.parametrize("preset", ["no_such_preset", "empty"])
def test_a_preset_that_cannot_be_loaded_is_refused_by_name(tmp_path, preset):
    (tmp_path / "empty").mkdir()
    given = str(tmp_path / preset) if preset == "empty" else preset

    with pytest.raises(
        ConfigError, match=rf"model.preset: expected a distilbert preset .*received '.*{preset}': "
    ) as no:
        text_network("distilbert", preset=given)

    assert "\n" not in str(no.value)


def test_a_vocabulary_that_does_not_belong_to_the_preset_is_refused(presets):
    folder, _ = presets

    with pytest.raises(
        ConfigError, match=r"expected the 40 tokens of model.preset .* does not belong to the model, of 41"
    ):
        text_network("bert", preset=str(folder / "bert"), tokens=Tokens(41, PAD, 24))


def test_rows_longer_than_the_positions_of_the_preset_are_refused(presets):
    folder, _ = presets

    with pytest.raises(
        ConfigError, match=r"preprocessing.max_length: expected at most 24, the positions of .*received 25"
    ):
        text_network("bert", preset=str(folder / "bert"), tokens=Tokens(40, PAD, 25))


# Settings -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("text_cn", "unknown model 'text_cn'. Did you mean 'text_cnn'?"),
        ("roberto", "unknown model 'roberto'. Did you mean 'roberta'?"),
        (
            "xyz",
            "unknown model 'xyz'. Known: text_cnn, text_bilstm, bert, roberta, distilbert, or package.module:funct",
        ),
        (
            "resnet50",
            "expected a model of texts (text_cnn, text_bilstm, bert, roberta, distilbert), received 'resnet50'",
        ),
    ],
)
def test_a_name_of_no_model_of_texts_is_refused(name, sentence):
    with pytest.raises(ConfigError) as refused:
        text_network(name)

    assert str(refused.value).startswith(f"model.name: {sentence}")


def test_a_model_of_texts_is_refused_for_images():
    with pytest.raises(
        ConfigError, match=r"model.name: expected a model of images .*received 'text_cnn', a model of tex"
    ):
        build_network(config_of("text_cnn"), 3)


def test_heads_share_the_width_evenly():
    with pytest.raises(ConfigError, match=r"model.width: expected a multiple of model.num_heads \(3\), received 8"):
        text_network("bert", num_heads=3)


def test_imagenet_weights_are_none_of_texts():
    with pytest.raises(ConfigError, match=r"model.weights: 'text_cnn' has no imagenet weights; expected `random` or a"):
        text_network("text_cnn", weights="imagenet")


def test_a_preset_is_refused_where_it_means_nothing():
    with pytest.raises(
        ConfigError, match=r"model.preset: expected model.name to be one of bert, roberta, distilbert, re"
    ):
        text_network("text_cnn", preset="bert_tiny_en_uncased")


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
@pytest.mark.parametrize("name", ["text_bilstm", "roberta"])
def test_weights_come_from_a_file_and_a_head_of_other_classes_keeps_its_own(tmp_path, name, suffix):
    source, path = randomised(text_network(name)), tmp_path / f"network{suffix}"
    source.save(path) if suffix == ".keras" else source.save_weights(path)

    same, other = (text_network(name, num_classes=classes, weights=str(path)) for classes in (3, 5))

    for weight, loaded in zip(source.weights, same.weights, strict=True):
        np.testing.assert_array_equal(weight, loaded)
    for weight, loaded in list(zip(source.weights, other.weights, strict=True))[:-2]:
        np.testing.assert_array_equal(weight, loaded)
    assert other.output_shape == (None, 5)


@pytest.mark.parametrize("name", TEXT_MODELS)
def test_frozen_embeddings_are_left_out_of_training(name):
    network, free = text_network(name, freeze_embeddings=True), text_network(name)

    held = {weight.path for weight in free.trainable_weights} - {weight.path for weight in network.trainable_weights}

    assert held
    assert all("embedding" in path for path in held)
    assert not any("embedding" in weight.path for weight in network.trainable_weights)


OWN = """
import keras


def network(tokens, num_classes, config):
    rows = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(tokens.vocabulary_size, config.model.width)(rows)
    return keras.Model(rows, keras.layers.Dense(num_classes)(x))


def floats(tokens, num_classes, config):
    rows = keras.Input((None,), dtype="float32")
    return keras.Model(rows, keras.layers.Dense(num_classes)(rows[..., None]))


def without(tokens, num_classes, config):
    rows = keras.Input((None,), dtype="int32")
    return keras.Model(rows, keras.layers.Dense(num_classes)(keras.ops.one_hot(rows, tokens.vocabulary_size)))


def nothing(tokens, num_classes, config):
    return None
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A module of the user's in the current folder."""
    (tmp_path / "my_text_models.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "my_text_models"
    sys.modules.pop("my_text_models", None)


def test_a_function_of_the_users_gets_tokens_classes_and_configuration(own):
    network = build_text_network(text_config(f"{own}:network"), TOKENS, 4, per_token=True)

    assert network.name == "network"
    assert network.output_shape == (None, None, 4)
    assert network.layers[1].input_dim == TOKENS.vocabulary_size


def test_embeddings_that_are_not_there_cannot_be_frozen(own):
    config = text_config(f"{own}:without", freeze_embeddings=True)

    with pytest.raises(ConfigError, match=r"model.freeze_embeddings: expected layers with `embedding` in their names"):
        build_text_network(config, TOKENS, 3, per_token=True)


@pytest.mark.parametrize(
    ("function", "per_token", "sentence"),
    [
        ("network", False, r"to give logits of shape \(None, 3\), received \(None, None, 3\)"),
        ("floats", True, r"to take one input of int32 ids, \(None, None\), received .*float32"),
        ("nothing", True, "to return a Keras model, received None"),
        ("missing", True, "expected package.module:function that can be imported"),
    ],
)
def test_a_function_that_gives_something_else_is_refused(own, function, per_token, sentence):
    with pytest.raises(ConfigError, match=f"model.name: .*{sentence}"):
        build_text_network(text_config(f"{own}:{function}"), TOKENS, 3, per_token=per_token)
