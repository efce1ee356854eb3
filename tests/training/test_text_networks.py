"""Networks of texts in training: what is recomputed, and that each kind learns."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.models.text_networks import PAD, randomised, text_config, text_network, token_rows
from tfpipe.distributed import World
from tfpipe.training.recipe import build_optimizer
from tfpipe.training.rematerialization import recomputing, segments

pytestmark = pytest.mark.tensorflow


@pytest.mark.parametrize(("name", "per_token"), [("bert", True), ("text_bilstm", False)])
def test_recomputed_activations_give_the_same_gradients_and_dropout_behind_a_padding_mask(name, per_token):
    rows = tf.constant(token_rows(9, 4, 6))
    results = []
    for recompute in (False, True):
        keras.utils.set_random_seed(1)
        network = randomised(text_network(name, per_token=per_token, num_layers=3, dropout=0.2))
        forward = recomputing(network) if recompute else lambda x, network=network: network(x, training=True)

        @tf.function
        def step(x, network=network, forward=forward):
            with tf.GradientTape() as tape:
                logits = forward(x)
                loss = tf.reduce_mean(tf.square(logits - 1.0))
            gradients = tape.gradient(loss, [v.value for v in network.trainable_variables])
            return logits, [tf.convert_to_tensor(gradient) for gradient in gradients]

        results.append(tf.nest.flatten([step(rows), step(rows)]))

    for tensor, other in zip(*results, strict=True):
        np.testing.assert_allclose(tensor, other, rtol=1e-4, atol=1e-5)
    assert len(segments(network)) > 1
    assert not np.array_equal(results[0][0], results[0][len(results[0]) // 2])


def test_a_transformer_is_cut_between_its_layers():
    pieces = segments(text_network("distilbert", num_layers=4))
    held = [[layer.name for layer in piece.layers if layer.name.startswith("transformer")] for piece in pieces]

    assert [name for piece in held for name in piece] == [f"transformer_layer_{place}" for place in range(4)]
    assert max(map(len, held)) < 4


@pytest.mark.parametrize(
    ("name", "per_token"), [("text_cnn", False), ("text_cnn", True), ("text_bilstm", True), ("bert", False)]
)
def test_a_network_learns_to_find_a_token_among_padded_rows(name, per_token):
    """Its place in the row is for the tags, its presence for the text."""
    rng = np.random.default_rng(0)
    rows = token_rows(*rng.integers(3, 9, 32), to=8, seed=1)
    rows[rows == PAD + 1] += 1
    wanted = rng.integers(0, 2, 32).astype(np.int32)
    rows[wanted == 1, rng.integers(0, 3, wanted.sum())] = PAD + 1
    keras.utils.set_random_seed(0)
    network = text_network(name, per_token=per_token, num_classes=2, width=16)
    labels = (rows == PAD + 1).astype(np.int32) if per_token else wanted
    weights = (rows != PAD).astype(np.float32) if per_token else np.ones(32, np.float32)
    optimizer = build_optimizer(text_config(training={"learning_rate": 0.01}).training, network, World())

    @tf.function
    def step(network=network, optimizer=optimizer, labels=labels, weights=weights):
        variables = network.trainable_variables
        with tf.GradientTape() as tape:
            logits = network(rows, training=True)
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            loss = tf.reduce_sum(losses * weights)
        gradients = tape.gradient(loss, [v.value for v in variables])
        optimizer.apply_sums(gradients, variables, tf.reshape(tf.reduce_sum(weights), (1,)))

    for _ in range(60):
        step()

    predicted = np.asarray(network(rows, training=False)).argmax(axis=-1)
    assert (predicted == labels)[weights > 0].mean() > 0.95
