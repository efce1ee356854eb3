"""Which layers train when."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.models.assembled import config_of
from tfpipe.distributed import World
from tfpipe.models.assembly import build_network
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
