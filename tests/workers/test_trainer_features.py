"""What is added to plain training, over several workers: as one worker has it, and the same on every rank."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.training.loops import small_loop, trained, weights_of
from tfpipe.core.errors import TrainingError
from tfpipe.distributed import World
from tfpipe.training.averaging import adopt_average
from tfpipe.training.checkpoints import TrainingState
from tfpipe.training.keras_callbacks import KerasCallbacks
from tfpipe.training.sentinel import DesyncSentinel
from tfpipe.training.time_limit import TimeLimit

ALL_AT_ONCE = {
    "ema_momentum": 0.6,
    "class_weights": {"b": 3.0, "c": 0.5},
    "limit_train_batches": 3,
    "rematerialization": "segments",
    "accumulation_steps": 2,
    "metrics": ["tests.training.user_code:confidence", "tests.training.user_code:top_two"],
    "sentinel_steps": 1,
}


def watched(loop):
    return [DesyncSentinel(loop.synchronized_variables, loop.world, every_steps=1)]


def by_the_chief_alone(world, agreed, train_on):
    """What training on one worker gives, on every worker; the same on each, so that one does it for all."""
    found = []
    agreed(lambda: found.append(train_on(World()) if world.is_chief else None))
    return world.broadcast_object(found[0])


def callbacks(loop, state, *given):
    return KerasCallbacks(
        given, loop.config.training, loop.parts, loop.optimizer, loop.world, state, loop.steps_per_epoch
    )


@pytest.mark.parametrize(
    "options",
    [
        {**ALL_AT_ONCE, "label_smoothing": 0.1, "optimizer": "adamw"},
        {**ALL_AT_ONCE, "loss": "tests.training.user_code:squared_error", "class_weights": "balanced"},
    ],
    ids=["smoothed", "own loss"],
)
def test_all_features_at_once_give_on_several_workers_what_they_give_on_one(world, agreed, tmp_path, options):
    def train_on(group):
        loop = small_loop(group, **options)
        # 26 samples, 8 a step: shares of a batch differ, and the validation data do not divide either.
        history = trained(loop, tmp_path / str(group.size), observers=watched(loop)).history
        adopt_average(loop.optimizer)
        return history, weights_of(loop)

    histories, weights = zip(by_the_chief_alone(world, agreed, train_on), train_on(world), strict=True)
    everyone = world.gather_objects([weight.tobytes() for weight in weights[1]])

    def assertions():
        assert all(rank == everyone[0] for rank in everyone)
        # Sums of the same float32 terms in another order, over 9 updates.
        for alone, together in zip(*weights, strict=True):
            np.testing.assert_allclose(alone, together, rtol=1e-4, atol=1e-5)
        for alone, together in zip(*histories, strict=True):
            for name in ("loss", "accuracy", "val_loss", "val_accuracy", "val_confidence", "val_top_two"):
                assert together[name] == pytest.approx(alone[name], rel=1e-4, abs=1e-5)

    agreed(assertions)


def test_several_workers_prune_the_weights_that_one_prunes(world, agreed, tmp_path):
    pruning = {"sparsity": 0.8, "start": 0.1, "end": 0.67, "every_steps": 2}

    def train_on(group):
        loop = small_loop(group, pruning=pruning, momentum=0.9, sentinel_steps=1)
        trained(loop, tmp_path / str(group.size), observers=watched(loop))
        return weights_of(loop)

    weights = by_the_chief_alone(world, agreed, train_on), train_on(world)

    def assertions():
        for alone, together in zip(*weights, strict=True):
            assert np.array_equal(alone == 0, together == 0)
            assert alone.ndim == 1 or abs(np.mean(alone == 0) - 0.8) < 1 / alone.size
            np.testing.assert_allclose(alone, together, rtol=1e-4, atol=1e-5)

    agreed(assertions)


class StopsOnOneWorker(keras.callbacks.Callback):
    every_worker = True

    def __init__(self, rank):
        super().__init__()
        self.rank = rank

    def on_train_batch_end(self, batch, logs=None):
        if self.rank == 1 and batch == 1:
            self.model.stop_training = True


class ChangesWeights(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        for weight in self.model.trainable_variables:
            weight.assign(weight * 0.5)
        self.model.optimizer.learning_rate = float(self.model.optimizer.learning_rate) / 2


def test_one_workers_wish_to_end_ends_all_after_the_same_step(world, agreed, tmp_path):
    loop, state = small_loop(world, epochs=30), TrainingState()
    stopping = callbacks(loop, state, StopsOnOneWorker(world.rank))

    trained(loop, tmp_path, observers=[*watched(loop), stopping], state=state)
    everyone = world.gather_objects((state.step, state.epoch, state.ended, len(state.history)))

    agreed(lambda: check_equal(everyone, (3, 1, "a callback set model.stop_training", 1)))


def test_the_chiefs_clock_alone_ends_a_run_for_all(world, agreed, tmp_path):
    loop = small_loop(world, epochs=10_000)
    limit = TimeLimit(0.3, 0.0, is_chief=world.is_chief)

    state = trained(loop, tmp_path, observers=[limit])
    everyone = world.gather_objects((state.step, state.ended))

    agreed(lambda: check_equal(everyone, (state.step, "training.max_time of 0.3 s is up")))


def test_what_the_chiefs_callback_changes_all_workers_have(world, agreed, tmp_path):
    loop, state = small_loop(world), TrainingState()

    # The sentinel would stop the run at the first step in which they differ.
    trained(loop, tmp_path, observers=[*watched(loop), callbacks(loop, state, ChangesWeights())], state=state)
    everyone = world.gather_objects([epoch["learning_rate"] for epoch in state.history])

    agreed(lambda: [np.testing.assert_allclose(rates, [0.05, 0.025, 0.0125], rtol=1e-5) for rates in everyone])


class FailsOnChief(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        raise KeyError("nothing")


def test_a_callback_that_fails_on_the_chief_ends_all_with_its_sentence(world, agreed, tmp_path):
    loop, state = small_loop(world), TrainingState()
    message = None

    try:
        trained(loop, tmp_path, observers=[callbacks(loop, state, FailsOnChief())], state=state)
    except TrainingError as error:
        message = str(error)
    everyone = world.gather_objects(message)

    # The others' message begins with whose it is.
    expected = "training.callbacks: FailsOnChief.on_epoch_end failed: KeyError: 'nothing'"
    agreed(lambda: check_equal([str(text)[-len(expected) :] for text in everyone], expected))


def test_a_loss_that_is_not_finite_names_samples_of_every_worker(world, agreed, tmp_path):
    loop = small_loop(world, learning_rate=1e35)
    message = ""

    try:
        trained(loop, tmp_path)
    except TrainingError as error:
        message = str(error)
    everyone = world.gather_objects(message)

    def assertions():
        assert all("Samples of the step, by worker: sample/" in text for text in everyone)
        parts = everyone[0].partition("by worker: ")[2].partition(". Last good")[0].split("; ")
        assert len(parts) == world.size

    agreed(assertions)


def test_an_overflow_on_one_worker_moves_no_workers_average(world, agreed):
    loop = small_loop(world, ema_momentum=0.5, precision="mixed_float16")
    variables, optimizer = loop.parts.network.trainable_variables, loop.optimizer
    optimizer.apply_sums([tf.ones(v.shape) for v in variables], variables, tf.ones((1,)))
    average = [v.numpy().tobytes() for v in optimizer.inner._model_variables_moving_average]
    bad = np.inf if world.rank == world.size - 1 else 1.0

    optimizer.apply_sums([tf.fill(v.shape, bad) for v in variables], variables, tf.ones((1,)))
    everyone = world.gather_objects([v.numpy().tobytes() for v in optimizer.inner._model_variables_moving_average])

    agreed(lambda: check_equal(everyone, average))


def check_equal(everyone, expected):
    assert everyone == [expected] * len(everyone)
