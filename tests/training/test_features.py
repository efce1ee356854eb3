"""What is added to plain training, each against what it must equal: weights, average, limits, recomputation, an end."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.models.assembled import config_of
from tests.training.loops import LABELS, small_loop, trained, weights_of
from tests.training.tiny import network as tiny_network
from tfpipe.core.errors import ConfigError, TrainingError
from tfpipe.data.sharding import epoch_order, rank_epoch
from tfpipe.distributed import World
from tfpipe.preprocessing.layers import DRAWS
from tfpipe.tasks.single_label import SingleLabel
from tfpipe.training.averaging import adopt_average, averaged
from tfpipe.training.checkpoints import CheckpointFolder, load, restore
from tfpipe.training.class_weights import class_weights
from tfpipe.training.optimizer import DataParallelOptimizer
from tfpipe.training.recipe import check_loss
from tfpipe.training.rematerialization import recomputing, segments
from tfpipe.training.time_limit import TimeLimit
from tfpipe.training_settings import TrainingConfig

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]


def assert_close(arrays, others, rtol=1e-5, atol=1e-6):
    for array, other in zip(arrays, others, strict=True):
        np.testing.assert_allclose(array, other, rtol=rtol, atol=atol)


# Class weights --------------------------------------------------------------------------------------------------------


def test_a_class_weight_of_two_is_every_sample_of_the_class_twice():
    """The gradient is sum(w g) / sum(w): that of a batch which holds the samples so often."""
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (5, 4, 4, 3)).astype(np.float32)
    labels = np.array([0, 1, 2, 1, 0], np.int32)
    twice = np.concatenate([np.arange(5), np.flatnonzero(labels == 1)])
    results = []
    for given, picked in (({"b": 2.0}, np.arange(5)), ({}, twice)):
        loop = small_loop(class_weights=given, accumulation_steps=2)
        draws = np.zeros((len(picked), len(DRAWS)), np.float32)
        ones = np.ones(len(picked), np.float32)
        sums, norm, _ = loop.training_step.at(0)(images[picked], labels[picked], ones, draws, 0.0, [0.0, 0.0], 0.1)
        results.append((sums.numpy(), float(norm), weights_of(loop)))

    (sums, norm, weights), (other_sums, other_norm, other_weights) = results
    assert_close(weights, other_weights)
    assert norm == pytest.approx(other_norm, rel=1e-5)
    # What is counted for the metrics is not weighted by class.
    assert (sums[0], other_sums[0]) == (5.0, 7.0)


def test_balanced_weights_are_those_of_scikit_learn():
    from sklearn.utils.class_weight import compute_class_weight

    labels = np.array([0] * 7 + [1] * 2 + [2])

    weights = class_weights(TrainingConfig(class_weights="balanced"), LABELS, np.bincount(labels))

    np.testing.assert_allclose(weights, compute_class_weight("balanced", classes=np.arange(3), y=labels), rtol=1e-6)
    assert class_weights(TrainingConfig(), LABELS, np.bincount(labels)) is None


def test_a_class_that_the_data_lack_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match=r"received 'catt'\. Did you mean 'cat'\?"):
        class_weights(TrainingConfig(class_weights={"catt": 2.0, "dog": 1.0}), ("cat", "dog"), np.array([0, 1]))


# Moving average -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_average_is_validated_and_kept_while_the_weights_go_on(tmp_path, optimizer):
    plain = small_loop(optimizer=optimizer, checkpoint_steps=1)
    loop = small_loop(optimizer=optimizer, checkpoint_steps=1, ema_momentum=0.7)

    trained(plain, tmp_path / "plain")
    state = trained(loop, tmp_path / "average")

    assert_close(weights_of(loop), weights_of(plain), rtol=0, atol=0)
    # The average, from the weights after each update.
    number = len(weights_of(plain))
    expected = None
    for path in sorted((tmp_path / "plain").glob("step-*")):
        arrays = load(path)[0]
        names = sorted(name for name in arrays if name.startswith("model/"))
        current = [arrays[name] for name in names if name.rpartition("/")[2] in ("kernel", "bias")]
        assert len(current) == number
        expected = current if expected is None else [0.7 * a + 0.3 * b for a, b in zip(expected, current, strict=True)]
    before = weights_of(loop)
    with averaged(loop.optimizer):
        assert_close(weights_of(loop), expected)
        score = loop.evaluate(loop._validation).metrics["loss"]
    assert_close(weights_of(loop), before, rtol=0, atol=0)
    assert state.history[-1]["val_loss"] == pytest.approx(score, rel=1e-6)
    assert state.history[-1]["val_loss"] != pytest.approx(loop.evaluate(loop._validation).metrics["loss"], rel=1e-6)


def test_an_average_goes_on_exactly_after_a_resume(tmp_path):
    options = {"ema_momentum": 0.9, "checkpoint_steps": 3}
    whole, resumed = small_loop(**options), small_loop(**options)
    trained(whole, tmp_path / "whole")

    # 4 steps an epoch: step 6 is in the middle of the second.
    arrays, state = load(tmp_path / "whole" / "step-00000006")
    restore(resumed.variables(), arrays, where="test")
    trained(resumed, tmp_path / "resumed", state=state)
    for loop in (whole, resumed):
        adopt_average(loop.optimizer)

    assert_close(weights_of(resumed), weights_of(whole), rtol=0, atol=0)


def test_a_step_that_overflows_does_not_move_the_average():
    weight = keras.Variable(np.ones(2, np.float32))
    inner = keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5)
    optimizer = DataParallelOptimizer(inner, World(), scale_loss=True)

    def apply(gradient):
        optimizer.apply_sums([tf.constant(gradient, tf.float32)], [weight], tf.ones((1,)))
        return inner._model_variables_moving_average[0].numpy().tolist()

    first, second = apply([1.0, 2.0]), apply([np.inf, 1.0])

    assert first == second != [0.0, 0.0]


def test_before_the_first_update_there_is_no_average_to_adopt():
    loop = small_loop(ema_momentum=0.9)
    before = weights_of(loop)

    adopt_average(loop.optimizer)

    assert_close(weights_of(loop), before, rtol=0, atol=0)


# Limits ---------------------------------------------------------------------------------------------------------------


def test_a_limit_takes_the_first_steps_of_each_epochs_own_order(tmp_path):
    loop = small_loop(limit_train_batches=2)

    state = trained(loop, tmp_path)

    assert (state.step, state.samples_seen) == (6, 48.0)
    for epoch in range(2):
        order = epoch_order(26, seed=0, epoch=epoch)
        for size in (1, 2, 3):
            shares = [
                rank_epoch(26, batch_size=8, seed=0, epoch=epoch, rank=rank, world_size=size, steps=2)[0]
                for rank in range(size)
            ]
            assert sorted(np.concatenate(shares)) == sorted(order[:16])


# Recomputation --------------------------------------------------------------------------------------------------------


def residual_network(input_shape):
    """Convolutions with batch normalisation, dropout, a shortcut and a layer that is called twice."""
    inputs = keras.Input(input_shape)
    shared = keras.layers.Conv2D(4, 3, padding="same", name="shared")
    x = shared(keras.layers.Conv2D(4, 1, name="stem")(inputs))
    for block in range(4):
        y = keras.layers.BatchNormalization(name=f"bn{block}")(x)
        y = keras.layers.Conv2D(4, 3, padding="same", activation="relu", name=f"conv{block}")(y)
        x = keras.layers.Add(name=f"add{block}")([x, keras.layers.Dropout(0.3, seed=block, name=f"drop{block}")(y)])
    x = keras.layers.GlobalAveragePooling2D(name="pool")(shared(x))
    return keras.Model(inputs, keras.layers.Dense(3, kernel_regularizer="l2", name="logits")(x))


def network_of_tiny(input_shape):
    return tiny_network(input_shape, 3, config_of())


def network_with_a_model_inside(input_shape):
    inputs = keras.Input(input_shape)
    inner = keras.Sequential([keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization(), keras.layers.ReLU()])
    x = inner(keras.layers.Conv2D(4, 1)(inputs))
    return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x)))


@pytest.mark.parametrize("make", [residual_network, network_of_tiny, network_with_a_model_inside])
def test_recomputed_activations_give_the_same_gradients_statistics_and_dropout(make):
    rows = tf.constant(np.random.default_rng(0).normal(size=(6, 8, 8, 3)).astype(np.float32))
    results = []
    for recompute in (False, True):
        keras.utils.set_random_seed(1)
        network = make((8, 8, 3))
        forward = recomputing(network) if recompute else lambda x, network=network: network(x, training=True)

        @tf.function
        def step(x, network=network, forward=forward):
            with tf.GradientTape() as tape:
                logits = forward(x)
                loss = tf.reduce_mean(tf.square(logits - 1.0))
            return logits, tape.gradient(loss, [v.value for v in network.trainable_variables])

        for _ in range(2):
            logits, gradients = step(rows)
        state = [variable.numpy() for variable in network.non_trainable_variables]
        results.append([logits.numpy(), *[gradient.numpy() for gradient in gradients], *state])

    assert_close(*results, rtol=1e-5, atol=1e-6)
    assert len(segments(network)) > 1


def test_the_forward_pass_is_computed_a_second_time_for_the_gradients():
    network = residual_network((8, 8, 3))
    counts = []
    for forward in (lambda x: network(x, training=True), recomputing(network)):

        @tf.function
        def step(x, forward=forward):
            with tf.GradientTape() as tape:
                loss = tf.reduce_sum(forward(x))
            return tape.gradient(loss, [v.value for v in network.trainable_variables])

        graph = step.get_concrete_function(tf.TensorSpec((2, 8, 8, 3))).graph
        counts.append(sum(operation.type == "Conv2D" for operation in graph.get_operations()))

    assert counts == [7, 14]


def test_a_network_without_a_cut_is_refused():
    inputs = keras.Input((4,))
    left, right = keras.layers.Dense(2)(inputs), keras.layers.Dense(2)(inputs)
    network = keras.Model(inputs, keras.layers.Add()([left, right]))

    with pytest.raises(ConfigError, match=r"training.rematerialization: expected a functional network"):
        segments(network)


# Loss -----------------------------------------------------------------------------------------------------------------


def test_a_loss_of_ones_own_is_what_is_trained_and_validated(tmp_path):
    loop = small_loop(loss="tests.training.user_code:squared_error", learning_rate=0.5)

    history = trained(loop, tmp_path).history

    # Squared errors of probabilities lie in 0..2.
    assert all(0 < epoch["val_loss"] <= 2 and 0 < epoch["loss"] <= 2 for epoch in history)
    assert history[-1]["loss"] < history[0]["loss"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mean_loss", r"to give one loss an example, \(2,\) for 2 examples, received shape \(\)"),
        ("broken_loss", r"but it fails: AttributeError"),
        ("branching_loss", r"but it fails: OperatorNotAllowedInGraphError"),
        ("missing", r"training.loss: expected package.module:function that can be imported"),
    ],
)
def test_a_loss_that_cannot_be_used_is_refused_before_training(name, message):
    with pytest.raises(ConfigError, match=message):
        check_loss(TrainingConfig(loss=f"tests.training.user_code:{name}"), SingleLabel(LABELS))


# The end --------------------------------------------------------------------------------------------------------------


class FakeClock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        self.now += 1.0
        return self.now


def test_a_run_whose_time_is_up_ends_with_validation_and_a_checkpoint_of_its_last_step(tmp_path):
    loop = small_loop(epochs=50)

    # One second a look: two looks an epoch beside those of its 4 steps.
    state = trained(loop, tmp_path, observers=[TimeLimit(7.0, 0.0, is_chief=True, clock=FakeClock())])

    assert state.ended == "training.max_time of 7 s is up"
    assert 4 < state.step < 10
    assert len(state.history) == state.epoch
    assert "val_loss" in state.history[-1]
    arrays, saved = load(max(tmp_path.glob("step-*")))
    assert (saved.step, saved.ended) == (state.step, state.ended)
    # What was killed before its result was written does not train on.
    again = small_loop(epochs=50)
    restore(again.variables(), arrays, where="test")
    assert trained(again, tmp_path, state=saved).step == state.step


def test_time_spent_in_earlier_sittings_counts():
    clock = FakeClock()

    assert TimeLimit(10.0, 8.5, is_chief=True, clock=clock).end_reason() is None
    assert TimeLimit(10.0, 9.5, is_chief=True, clock=clock).end_reason()
    assert TimeLimit(10.0, 9.5, is_chief=False, clock=clock).end_reason() is None


def test_a_loss_that_is_not_finite_names_the_samples_and_the_last_good_checkpoint(tmp_path):
    loop = small_loop(checkpoint_steps=1, epochs=1)
    state = trained(loop, tmp_path)
    bad = small_loop(learning_rate=1e35, checkpoint_steps=1)
    good = tmp_path / f"step-{state.step:08d}"
    state.epoch, state.step_in_epoch = 1, 0
    order = epoch_order(26, seed=0, epoch=1)

    with pytest.raises(TrainingError) as caught:
        trained(bad, tmp_path, state=state)

    message = str(caught.value)
    failed = int(message.partition(":")[0].removeprefix("step ")) - 5
    named = ", ".join(f"sample/{index}" for index in order[failed * 8 : failed * 8 + 3])
    assert f"Samples of the step, by worker: {named}, ...." in message
    # Checkpoints of steps whose loss was still finite, but whose weights are not, are no good ones.
    finite = CheckpointFolder(tmp_path, keep=9).newest_finite()
    assert f"Last good checkpoint: {finite}." in message
    assert finite >= good
