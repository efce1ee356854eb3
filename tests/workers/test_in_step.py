"""Workers that are in step, and what happens when they are not."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfpipe.core.errors import TrainingError
from tfpipe.training.batch_norm import SynchronizedStatistics
from tfpipe.training.observers import StepRecord
from tfpipe.training.optimizer import DataParallelOptimizer
from tfpipe.training.sentinel import DesyncSentinel, check_shares


def record(step):
    return StepRecord(step=step, loss=1.0, samples=8, gradient_norm=1.0, learning_rate=0.1, input_s=0.0, step_s=0.1)


def small_network():
    keras.utils.set_random_seed(1)
    return keras.Sequential([
        keras.Input((4, 4, 3)), keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization(),
        keras.layers.Flatten(), keras.layers.Dense(2),
    ])  # fmt: skip


def message_of(action):
    """What a worker is told; "" where it is told nothing."""
    try:
        action()
    except TrainingError as error:
        return str(error)
    return ""


def test_a_weight_that_differs_on_one_worker_is_named_with_the_worker_on_all(world, agreed):
    first, second = (keras.Variable(np.ones((2, 3), np.float32), name=name) for name in ("kernel", "bias"))
    sentinel = DesyncSentinel(lambda: [first, second], world, every_steps=10)
    equal = message_of(lambda: sentinel.on_step(record(10)))
    if world.rank == 1:
        second.assign(np.nextafter(second.numpy(), np.float32(2)))

    between = message_of(lambda: sentinel.on_step(record(19)))
    messages = world.gather_objects(message_of(lambda: sentinel.on_step(record(20))))

    def assertions():
        assert (equal, between) == ("", "")
        assert len(set(messages)) == 1
        assert messages[0].startswith(
            "step 20: expected the same weights on every worker, but worker 1 of 3 differs in"
        )
        assert "'bias' and 0 more of 2 variables" in messages[0]

    agreed(assertions)


def test_the_end_of_an_epoch_is_checked_too_and_only_once(world, agreed):
    variable = keras.Variable(np.full(2, float(world.rank), np.float32), name="v")
    sentinel = DesyncSentinel(lambda: [variable], world, every_steps=100)

    sentinel.on_step(record(7))
    messages = world.gather_objects(message_of(sentinel.figures))
    again = message_of(sentinel.figures)

    def assertions():
        assert all("step 7: " in message and "all workers differ" in message for message in messages)
        assert again == ""

    agreed(assertions)


@pytest.mark.parametrize(
    ("share", "num_steps", "expected", "sentence"),
    [
        (lambda rank: [rank, 3 + rank], lambda rank: 2, lambda rank: 6, ""),
        (lambda rank: [rank, 3 + rank], lambda rank: 2 + (rank == 2), lambda rank: 6, r"same steps .*: [2, 2, 3] by"),
        (lambda rank: [rank, 3 + rank], lambda rank: 2, lambda rank: 6 + rank, "same samples on every worker"),
        (lambda rank: [rank, 3], lambda rank: 2, lambda rank: 6, "make up its 6 samples once, received 6"),
        (lambda rank: [rank], lambda rank: 2, lambda rank: 6, "make up its 6 samples once, received 3: [1, 1, 1] by"),
    ],
)
def test_shares_that_do_not_make_up_the_epoch_are_told_before_its_first_step(
    world, agreed, share, num_steps, expected, sentence
):
    indices = np.array(share(world.rank))
    order = np.arange(expected(world.rank))

    messages = world.gather_objects(
        message_of(lambda: check_shares(indices, num_steps(world.rank), order, world, epoch=4))
    )

    def assertions():
        assert len(set(messages)) == 1
        head, _, tail = sentence.partition(" .*")
        assert (head in messages[0] and tail in messages[0]) if sentence else messages[0] == ""
        assert not sentence or messages[0].startswith("epoch 5: ")

    agreed(assertions)


def test_synchronised_batch_normalisation_is_that_of_the_whole_batch_and_so_is_its_gradient(world, agreed):
    """Shares of different sizes, and rows of weight 0 that only keep a worker in step."""
    rng = np.random.default_rng(5)
    rows = [rng.normal(3.0, 2.0, (2 + rank, 4, 4, 3)).astype(np.float32) for rank in range(3)]
    weights = [np.ones(len(share), np.float32) for share in rows]
    weights[2][-1] = 0.0

    def gradients(network, x, weight):
        with tf.GradientTape() as tape:
            answers = network(tf.constant(x), training=True)
            loss = tf.reduce_sum(tf.square(answers) * weight[:, None])
        return tape.gradient(loss, [v.value for v in network.trainable_variables])

    network = small_network()
    SynchronizedStatistics(network, world).weigh(tf.constant(weights[world.rank]))
    mine = gradients(network, rows[world.rank], weights[world.rank])
    total = [value.numpy() for value in world.allreduce_sum(mine)]
    moving = [v.numpy() for v in network.non_trainable_variables[:2]]

    whole = small_network()
    kept = np.concatenate(weights) > 0
    expected = gradients(whole, np.concatenate(rows)[kept], np.concatenate(weights)[kept])

    def assertions():
        for value, reference in zip(total, expected, strict=True):
            # The bias of a convolution before a normalisation has none: what is there is rounding.
            np.testing.assert_allclose(value, reference, rtol=1e-3, atol=1e-5)
        for value, variable in zip(moving, whole.non_trainable_variables[:2], strict=True):
            np.testing.assert_allclose(value, variable.numpy(), rtol=1e-4, atol=1e-6)

    agreed(assertions)


def test_workers_that_built_different_models_before_do_not_wait_for_one_another(world, agreed):
    """Keras numbers layers by what the process has built, and Horovod would name what it sends by them."""
    if world.is_chief:
        for _ in range(2):
            small_network()
    network = small_network()
    statistics = SynchronizedStatistics(network, world)
    optimizer = DataParallelOptimizer(keras.optimizers.SGD(0.1), world)
    optimizer.build(network.trainable_variables)

    @tf.function
    def step(x, weights):
        statistics.weigh(weights)
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.square(network(x, training=True)))
        values = [variable.value for variable in network.trainable_variables]
        return optimizer.apply_sums(tape.gradient(loss, values), network.trainable_variables, tf.ones((1,)))

    world.broadcast_variables(network.variables)
    step(tf.ones((2, 4, 4, 3)), tf.ones((2,)))
    everyone = world.gather_objects([variable.numpy().tobytes() for variable in network.trainable_variables])

    agreed(lambda: np.testing.assert_equal(everyone, [everyone[0]] * world.size))
