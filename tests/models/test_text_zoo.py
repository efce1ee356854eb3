"""Models of texts by name."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

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
from tfpipe.convert.to_onnx import _to_onnx
from tfpipe.core.errors import ConfigError
from tfpipe.core.parity import BOUNDS, assert_parity
from tfpipe.core.signature import TensorSpec
from tfpipe.models.assembly import build_network
from tfpipe.models.text_layers import BidirectionalLSTM
from tfpipe.models.text_zoo import TEXT_MODELS, Tokens, build_text_network
from tfpipe.ort import open_session

pytestmark = pytest.mark.tensorflow

EVERY_NETWORK = [(name, per_token) for name in TEXT_MODELS for per_token in (False, True)]
# Where a network takes a second: every model, both heads, not each with each.
EVERY_KIND = [(name, position % 2 == 1) for position, name in enumerate(TEXT_MODELS)]
NETWORKS = {}


def one(name, per_token):
    """A network with random weights, made once: a test changes none."""
    if (name, per_token) not in NETWORKS:
        NETWORKS[name, per_token] = randomised(text_network(name, per_token=per_token))
    return NETWORKS[name, per_token]


@pytest.mark.parametrize(("name", "per_token"), EVERY_NETWORK)
def test_a_network_gives_float32_logits_of_every_class_for_a_text_or_for_each_token(name, per_token):
    network = one(name, per_token)
    rows = token_rows(9, 4)

    logits = answers(network, rows)

    assert network.name == "network"
    assert [(tensor.name, tuple(tensor.shape), tensor.dtype) for tensor in network.inputs] == [
        ("rows", (None, None), "int32")
    ]
    assert logits.shape == ((2, 9, 3) if per_token else (2, 3))
    assert logits.dtype == np.float32
    # Logits, not probabilities; and the text makes a difference.
    assert np.abs(logits.sum(axis=-1) - 1.0).min() > 1e-4
    first, second = (logits[0, :4], logits[1, :4]) if per_token else logits
    assert np.abs(first - second).max() > 0.1


@settings(max_examples=60)
@given(
    network=st.sampled_from(EVERY_NETWORK),
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=3),
    more=st.integers(1, 12),
    seed=st.integers(0, 1000),
)
def test_padding_changes_no_answer(network, lengths, more, seed):
    name, per_token = network
    rows = token_rows(*lengths, seed=seed)
    longer = np.pad(rows, ((0, 0), (0, more)), constant_values=PAD)

    expected, received = (answers(one(name, per_token), given) for given in (rows, longer))

    alone = answers(one(name, per_token), rows[:1, : lengths[0]])
    for row, length in enumerate(lengths):
        of_tokens = slice(length) if per_token else slice(None)
        np.testing.assert_allclose(received[row][of_tokens], expected[row][of_tokens], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(received[0][: lengths[0]] if per_token else received[0], alone[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("name", "per_token"), EVERY_NETWORK)
def test_a_row_of_padding_alone_gives_numbers_and_leaves_its_neighbours(name, per_token):
    rows = token_rows(5, 0, 3)

    logits = answers(one(name, per_token), rows)

    assert np.isfinite(logits).all()
    np.testing.assert_allclose(logits[[0, 2]], answers(one(name, per_token), rows[[0, 2]]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", TEXT_MODELS)
def test_the_logits_of_a_token_depend_on_its_neighbours(name):
    rows = token_rows(8)
    other = rows.copy()
    other[0, 4] += 1 if other[0, 4] + 1 < TOKENS.vocabulary_size else -1

    changed = np.abs(answers(one(name, True), rows) - answers(one(name, True), other))[0].max(axis=-1) > 1e-6

    assert changed[[3, 5]].all()
    # A transformer and an LSTM of both directions see the whole row.
    assert changed.all() == (name != "text_cnn")


def test_both_directions_are_those_of_keras_bidirectional_with_a_mask():
    rng = np.random.default_rng(0)
    inputs, mask = rng.normal(size=(3, 7, 5)).astype(np.float32), np.arange(7) < np.array([[7], [4], [1]])
    mine = BidirectionalLSTM(6)
    mine(inputs, mask.astype(np.int32))
    reference = keras.layers.Bidirectional(keras.layers.LSTM(6, return_sequences=True))
    reference(inputs)
    for weight, other in zip(mine.weights, reference.weights, strict=True):
        weight.assign(rng.normal(0.0, 0.5, weight.shape))
        other.assign(weight)

    received, expected = np.asarray(mine(inputs, mask.astype(np.int32))), np.asarray(reference(inputs, mask=mask))

    np.testing.assert_allclose(received[mask], expected[mask], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", TEXT_MODELS)
def test_the_same_seed_gives_the_same_weights(name):
    weights = []
    for seed in (5, 5, 6):
        keras.utils.set_random_seed(seed)
        weights.append([weight.numpy() for weight in text_network(name, dropout=0.1).trainable_weights])

    assert all(np.array_equal(a, b) for a, b in zip(weights[0], weights[1], strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(weights[0], weights[2], strict=True))


@pytest.mark.parametrize(("name", "per_token"), EVERY_KIND)
def test_dropout_is_where_it_was_asked_for_and_repeats_with_the_seed(name, per_token):
    rows = token_rows(9, 4)
    logits = []
    for _ in range(2):
        keras.utils.set_random_seed(1)
        network = randomised(text_network(name, per_token=per_token, dropout=0.3))
        logits.append([np.asarray(network(rows, training=training)) for training in (True, True, False)])

    first, second, plain = logits[0]
    assert not np.array_equal(first, second)
    for a, b in zip(*logits, strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_allclose(plain, answers(one(name, per_token), rows), rtol=1e-5, atol=1e-5)
    assert not [layer for layer in one(name, per_token).layers if isinstance(layer, keras.layers.Dropout)]


# Saved, in half precision, and as ONNX --------------------------------------------------------------------------------

LOADS = """
import sys
from pathlib import Path
import numpy as np
import tfpipe.models.text_zoo
from keras.saving import load_model
rows = np.load("rows.npy")
for path in sorted(Path().glob("*.keras")):
    np.save(path.with_suffix(".npy"), load_model(path, compile=False)(rows, training=False))
"""


def test_a_saved_network_answers_the_same_in_a_fresh_process(tmp_path):
    rows = token_rows(9, 4)
    np.save(tmp_path / "rows.npy", rows)
    for name, per_token in EVERY_KIND:
        one(name, per_token).save(tmp_path / f"{name}-{per_token}.keras")

    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", LOADS], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr[-2000:]
    for name, per_token in EVERY_KIND:
        loaded = np.load(tmp_path / f"{name}-{per_token}.npy")
        np.testing.assert_allclose(loaded, answers(one(name, per_token), rows), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
@pytest.mark.parametrize(("name", "per_token"), EVERY_KIND)
def test_in_mixed_precision_logits_are_float32_and_near(name, per_token, policy):
    keras.mixed_precision.set_global_policy(policy)
    try:
        network = text_network(name, per_token=per_token, dropout=0.1)
    finally:
        keras.mixed_precision.set_global_policy("float32")
    plain = text_network(name, per_token=per_token, dropout=0.1)
    for weight, other in zip(network.trainable_weights, plain.trainable_weights, strict=True):
        weight.assign(other)
    rows = token_rows(9, 0, 4)

    logits = answers(network, rows)

    assert network.layers[-2].compute_dtype == policy.removeprefix("mixed_")
    assert logits.dtype == np.float32
    bound = BOUNDS["bf16" if policy == "mixed_bfloat16" else "fp16"]
    assert_parity(logits, answers(plain, rows), bound, where=name)
    assert np.isfinite(np.asarray(network(rows, training=True))).all()


@pytest.mark.parametrize(("name", "per_token"), [*EVERY_KIND, ("text_bilstm", False)])
def test_a_network_converts_to_onnx_and_answers_rows_of_any_length_and_number(name, per_token):
    network = one(name, per_token)
    axes = ("batch", "sequence", 3) if per_token else ("batch", 3)
    model = _to_onnx(
        lambda input: {"probabilities": network(input, training=False)},
        inputs=(TensorSpec("input", "int32", ("batch", "sequence")),),
        outputs=(TensorSpec("probabilities", "float32", axes),),
        opset=18,
        handlers={},
        metadata={"graph": "model"},
    )
    session = open_session(model.SerializeToString(), provider="cpu", threads=1)

    for lengths in ((1,), (2, 2, 2), (24, 3), (7, 0, 5)):
        rows = token_rows(*lengths)
        received = session.run({"input": rows})["probabilities"]
        assert_parity(received, answers(network, rows), BOUNDS["fp32"], where=f"{name} at {rows.shape}")


# Presets --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def presets(tmp_path_factory):
    """A small backbone of each family, saved as keras-nlp saves them."""
    from tfpipe.models.backbones import FAMILIES

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

    policies = {layer.name: layer.compute_dtype for layer in network.get_layer("backbone").layers}
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


@pytest.mark.parametrize("suffix", [".keras", ".weights.h5"])
@pytest.mark.parametrize("name", ["text_bilstm", "roberta"])
def test_weights_come_from_a_file_and_a_head_of_other_classes_keeps_its_own(tmp_path, name, suffix):
    source, path = one(name, False), tmp_path / f"network{suffix}"
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
