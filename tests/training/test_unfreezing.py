"""Which layers train when."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.models.assembled import config_of
from tests.models.text_networks import text_network, token_rows
from tfpipe.distributed import World
from tfpipe.models.assembly import build_network
from tfpipe.models.depth import layer_units
from tfpipe.settings import ModelConfig
from tfpipe.training.optimizer import DataParallelOptimizer
from tfpipe.training.unfreezing import freeze, stage

pytestmark = pytest.mark.tensorflow


@pytest.fixture
def network():
    return build_network(config_of("small_cnn"), 3)


def schedule(*epochs):
    return ModelConfig(freeze_backbone=True, unfreeze_epochs=epochs)


def free_layers(network):
    return [layer.name for layer in network.layers if layer.weights and layer.trainable]


def test_without_a_schedule_all_layers_train(network):
    variables = freeze(network, ModelConfig(), 0)

    assert [v.path for v in variables] == [v.path for v in network.trainable_variables]
    assert len(variables) == 6 + 2 * 6 + 2


def test_a_frozen_backbone_leaves_the_head_alone_to_train(network):
    for epoch in (0, 1, 100):
        variables = freeze(network, schedule(), epoch)

        assert [v.path for v in variables] == ["logits/kernel", "logits/bias"]


def test_the_backbone_thaws_from_the_head_down_in_equal_shares_and_the_last_frees_all(network):
    config = schedule(2, 5, 6)
    names = [layer.name for layer in network.layers if layer.weights]

    thawed = {epoch: (freeze(network, config, epoch), free_layers(network))[1] for epoch in range(8)}

    # 12 layers with weights below the head: 4 a stage.
    for epoch, count in {0: 0, 1: 0, 2: 4, 3: 4, 4: 4, 5: 8, 6: 12, 7: 12}.items():
        assert thawed[epoch] == names[12 - count :], epoch
    assert [stage(config, epoch) for epoch in range(8)] == [0, 0, 1, 1, 1, 2, 3, 3]


def test_the_variables_given_are_those_of_the_free_layers(network):
    variables = freeze(network, schedule(1, 2), 1)

    assert {v.path.split("/")[0] for v in variables} == set(free_layers(network))
    assert [v.path for v in variables] == [v.path for v in network.trainable_variables]


def test_what_is_frozen_stays_as_it_is_statistics_included(network):
    rows = np.random.default_rng(0).normal(3.0, 2.0, (8, 8, 8, 3)).astype(np.float32)
    # As the loop does: slots for all that will ever train.
    optimizer = DataParallelOptimizer(keras.optimizers.AdamW(0.1, weight_decay=0.1), World())
    optimizer.build(network.trainable_variables)
    variables = freeze(network, schedule(1, 2), 1)
    before = {weight.path: weight.numpy() for weight in network.weights}
    free = set(free_layers(network))

    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(network(rows, training=True)))
    gradients = tape.gradient(loss, [v.value for v in variables])
    optimizer.apply_sums(gradients, variables, tf.ones((1,)))

    changed = {path.split("/")[0] for path, value in before.items() if not np.array_equal(value, now(network, path))}
    assert changed == free


def now(network, path):
    return next(weight.numpy() for weight in network.weights if weight.path == path)


# Texts ----------------------------------------------------------------------------------------------------------------

EMBEDDINGS = ["token_embedding", "position_embedding", "segment_embedding", "embeddings_layer_norm"]


def names_of(units):
    return [[layer.name for layer in unit] for unit in units]


@pytest.mark.parametrize(
    ("name", "per_token", "expected"),
    [
        ("bert", False, [EMBEDDINGS, ["transformer_layer_0"], ["transformer_layer_1"], ["pooled_dense"], ["logits"]]),
        ("bert", True, [EMBEDDINGS, ["transformer_layer_0"], ["transformer_layer_1"], ["logits"]]),
        (
            "roberta",
            False,
            [["embeddings", "embeddings_layer_norm"], ["transformer_layer_0"], ["transformer_layer_1"],
             ["head_dense", "logits"]],
        ),
        (
            "distilbert",
            True,
            [["token_and_position_embedding", "embeddings_layer_norm"], ["transformer_layer_0"],
             ["transformer_layer_1"], ["logits"]],
        ),
        ("text_cnn", False, [["embedding"], ["convolutions"], ["logits"]]),
        ("text_bilstm", True, [["embedding"], ["bilstm"], ["logits"]]),
    ],
)  # fmt: skip
def test_embeddings_are_the_lowest_unit_and_what_the_head_adds_is_in_the_highest(name, per_token, expected):
    assert names_of(layer_units(text_network(name, per_token=per_token, num_layers=2))) == expected


def test_every_weight_is_in_one_unit():
    for network in (build_network(config_of("small_cnn"), 3), text_network("bert"), text_network("roberta")):
        weights = [weight.path for unit in layer_units(network) for layer in unit for weight in layer.weights]

        assert sorted(weights) == sorted(weight.path for weight in network.weights)


def test_a_transformer_thaws_layer_by_layer_from_its_head_down():
    network = text_network("roberta", num_layers=2)
    units = names_of(layer_units(network))

    thawed = {}
    for epoch in range(4):
        variables = freeze(network, schedule(1, 2, 3), epoch)
        assert {id(v) for v in variables} == {id(v) for v in network.trainable_variables}
        thawed[epoch] = {layer.name for unit in layer_units(network) for layer in unit if layer.trainable}

    assert thawed == {epoch: {name for unit in units[3 - epoch :] for name in unit} for epoch in range(4)}


def test_frozen_embeddings_stay_frozen_when_all_else_thaws():
    network = text_network("bert", freeze_embeddings=True)
    config = ModelConfig(freeze_backbone=True, unfreeze_epochs=(1,), freeze_embeddings=True)

    variables = freeze(network, config, 1)

    assert variables
    assert not [v.path for v in variables if "embedding" in v.path]
    assert {v.path for v in network.variables} - {v.path for v in variables} >= {
        "token_embedding/embeddings", "embeddings_layer_norm/gamma"
    }  # fmt: skip


def test_a_frozen_backbone_of_a_transformer_stays_and_its_head_learns():
    network = text_network("distilbert")
    rows = token_rows(9, 4)
    optimizer = DataParallelOptimizer(keras.optimizers.AdamW(0.1, weight_decay=0.1), World())
    optimizer.build(network.trainable_variables)
    before = {weight.path: weight.numpy() for weight in network.weights}

    variables = freeze(network, schedule(), 0)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(network(rows, training=True)))
    optimizer.apply_sums(tape.gradient(loss, [v.value for v in variables]), variables, tf.ones((1,)))

    changed = {path for path, value in before.items() if not np.array_equal(value, now(network, path))}
    assert {path.split("/")[0] for path in changed} == {"head_dense", "logits"}


def test_a_nested_model_that_was_frozen_whole_thaws_layer_by_layer():
    inner = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(3, name="low"), keras.layers.Dense(3, name="high")], name="inner"
    )
    inner.trainable = False
    rows = keras.Input((4,))
    network = keras.Model(rows, keras.layers.Dense(2, name="logits")(inner(rows)))

    variables = [{v.path.split("/")[-2] for v in freeze(network, schedule(1, 2), epoch)} for epoch in range(3)]

    assert variables == [{"logits"}, {"high", "logits"}, {"low", "high", "logits"}]
    assert len(network.trainable_variables) == 6
