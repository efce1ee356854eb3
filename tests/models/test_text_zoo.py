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

from tests.models.text_networks import (
    PAD,
    TOKENS,
    answers,
    randomised,
    text_network,
    token_rows,
)
from tfpipe.convert.to_onnx import _to_onnx
from tfpipe.core.parity import BOUNDS, assert_parity
from tfpipe.core.signature import TensorSpec
from tfpipe.models.text_layers import BidirectionalLSTM
from tfpipe.models.text_zoo import TEXT_MODELS
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


@settings(max_examples=40)
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
    # None by default: neither in the head nor in a transformer.
    for training in (False, True):
        without = np.asarray(one(name, per_token)(rows, training=training))
        np.testing.assert_allclose(without, plain, rtol=1e-5, atol=1e-5)


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
