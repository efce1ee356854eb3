"""The optimizer on one process; tests/workers has it on several."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models.assembled import config_of
from tests.samples import ArraySource
from tfpipe.data.pipeline import Batch, RowReader
from tfpipe.distributed import World
from tfpipe.models.assembly import assemble, build_network, build_preprocessing
from tfpipe.models.zoo import Normalization
from tfpipe.preprocessing.layers import DRAWS
from tfpipe.training.loop import TrainingLoop
from tfpipe.training.optimizer import DataParallelOptimizer
from tfpipe.training.reduction import reduce_gradients
from tfpipe.training.signals import StopRequest

pytestmark = pytest.mark.tensorflow


def variable(*values):
    return keras.Variable(np.array(values, np.float32))


def wrapped(inner, **options):
    return DataParallelOptimizer(inner, World(), **options)


def apply(optimizer, variables, *gradients, weight=1.0):
    """One update from sums of gradients over `weight` examples; gives the norm before clipping."""
    tensors = [None if g is None else tf.constant(np.array(g, np.float32)) for g in gradients]
    _, norm = optimizer.apply_sums(tensors, variables, tf.constant([weight, 5.0]))
    return float(norm)


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_on_one_process_it_is_the_optimizer_that_it_wraps(name):
    options = {"momentum": 0.9} if name == "SGD" else {}
    mine, plain = variable(1.0, -2.0, 3.0), variable(1.0, -2.0, 3.0)
    optimizer = wrapped(getattr(keras.optimizers, name)(0.1, **options))
    reference = getattr(keras.optimizers, name)(0.1, **options)
    rng = np.random.default_rng(0)

    for _ in range(5):
        gradient = rng.normal(size=3).astype(np.float32)
        apply(optimizer, [mine], gradient * 4, weight=4.0)
        reference.apply([tf.constant(gradient)], [plain])

    np.testing.assert_allclose(mine.numpy(), plain.numpy(), rtol=1e-5)
    assert int(optimizer.iterations) == 5


def test_sums_are_divided_by_the_weight_of_the_examples():
    reduced, total = reduce_gradients(
        [tf.constant([6.0, 9.0]), tf.constant(3.0)], tf.constant([3.0, 10.0, 2.0]), World()
    )

    assert [value.numpy().tolist() for value in reduced] == [[2.0, 3.0], 1.0]
    assert total.numpy().tolist() == [3.0, 10.0, 2.0]


def test_a_step_without_a_readable_example_changes_nothing():
    weights = variable(1.0, 2.0)
    optimizer = wrapped(keras.optimizers.AdamW(0.1, weight_decay=0.5))

    apply(optimizer, [weights], [0.0, 0.0], weight=0.0)

    assert weights.numpy().tolist() == [1.0, 2.0]
    assert int(optimizer.iterations) == 0


def test_a_variable_without_a_gradient_stays():
    trained, other = variable(1.0), variable(1.0)
    optimizer = wrapped(keras.optimizers.SGD(0.5))

    apply(optimizer, [trained, other], [1.0], None)

    assert (trained.numpy().tolist(), other.numpy().tolist()) == ([0.5], [1.0])


def test_clipping_shortens_the_whole_gradient_and_keeps_its_direction():
    first, second = variable(0.0, 0.0), variable(0.0)
    optimizer = wrapped(keras.optimizers.SGD(1.0), clip_norm=2.0)

    # Averaged over 2 examples: (6, 0) and (8), of norm 10.
    norm = apply(optimizer, [first, second], [12.0, 0.0], [16.0], weight=2.0)

    assert norm == pytest.approx(10.0)
    np.testing.assert_allclose(first.numpy(), [-1.2, 0.0], rtol=1e-5)
    np.testing.assert_allclose(second.numpy(), [-1.6], rtol=1e-5)


def test_a_gradient_below_the_limit_is_not_clipped():
    weights = variable(0.0, 0.0)

    apply(wrapped(keras.optimizers.SGD(1.0), clip_norm=6.0), [weights], [3.0, 4.0])

    np.testing.assert_allclose(weights.numpy(), [-3.0, -4.0], rtol=1e-6)


# Loss scaling ---------------------------------------------------------------------------------------------------------


def test_the_scale_of_the_loss_is_taken_out_before_clipping_and_update():
    weights = variable(0.0)
    optimizer = wrapped(keras.optimizers.SGD(1.0), clip_norm=2.0, scale_loss=True)
    scale = float(optimizer.scale_loss(tf.constant(1.0)))

    norm = apply(optimizer, [weights], [1.5 * scale])

    assert scale == 2.0**15
    assert norm == pytest.approx(1.5)
    assert weights.numpy().tolist() == [-1.5]


@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_an_overflow_skips_the_step_and_halves_the_scale(bad):
    weights = variable(1.0, 1.0)
    optimizer = wrapped(keras.optimizers.Adam(0.1), scale_loss=True)
    optimizer.build([weights])
    before = [v.numpy().tolist() for v in optimizer.inner.variables]

    apply(optimizer, [weights], [1.0, bad])

    assert weights.numpy().tolist() == [1.0, 1.0]
    assert [v.numpy().tolist() for v in optimizer.inner.variables] == before
    assert float(optimizer.loss_scale) == 2.0**14
    apply(optimizer, [weights], [1.0, 1.0])
    assert weights.numpy().max() < 1.0
    assert float(optimizer.loss_scale) == 2.0**14


def test_the_scale_never_falls_below_one():
    weights = variable(1.0)
    optimizer = wrapped(keras.optimizers.SGD(0.1), scale_loss=True)

    for _ in range(20):
        apply(optimizer, [weights], [np.inf])

    assert float(optimizer.loss_scale) == 1.0


def test_the_scale_doubles_after_two_thousand_good_steps():
    weights = variable(0.0)
    optimizer = wrapped(keras.optimizers.SGD(0.0), scale_loss=True)
    optimizer.build([weights])
    optimizer.finite_steps.assign(1998)

    scales = []
    for _ in range(3):
        apply(optimizer, [weights], [1.0])
        scales.append(float(optimizer.loss_scale))

    assert scales == [2.0**15, 2.0**16, 2.0**16]
    assert int(optimizer.finite_steps) == 1


def test_without_scaling_a_loss_is_left_as_it_is():
    optimizer = wrapped(keras.optimizers.SGD(0.1))

    assert float(optimizer.scale_loss(tf.constant(3.0))) == 3.0
    assert float(optimizer.loss_scale) == 1.0


# Keras ----------------------------------------------------------------------------------------------------------------


def test_model_fit_takes_it_and_gives_what_the_inner_optimizer_gives():
    rng = np.random.default_rng(0)
    rows, targets = rng.normal(size=(24, 4)).astype(np.float32), rng.integers(0, 2, 24)
    results = []
    for make in (wrapped, lambda inner: inner):
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="relu"), keras.layers.Dense(2)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(make(keras.optimizers.Adam(0.05)), loss, auto_scale_loss=False)
        model.fit(rows, targets, batch_size=8, epochs=2, shuffle=False, verbose=0)
        results.append([weight.numpy() for weight in model.weights])

    for mine, plain in zip(*results, strict=True):
        np.testing.assert_allclose(mine, plain, rtol=1e-5, atol=1e-6)


def test_the_learning_rate_is_the_inner_optimizers():
    optimizer = wrapped(keras.optimizers.SGD(0.1))

    optimizer.learning_rate = 0.25

    assert float(optimizer.inner.learning_rate) == float(optimizer.learning_rate) == 0.25


def test_a_checkpoint_gets_all_of_its_state():
    optimizer = wrapped(keras.optimizers.Adam(0.1), scale_loss=True)
    optimizer.build([variable(1.0)])

    names = [v.path.rsplit("/", 1)[-1] for v in optimizer.variables]

    assert names[:2] == ["iteration", "learning_rate"]
    assert sum("momentum" in name or "velocity" in name for name in names) == 2
    assert names[-2:] == ["scale", "finite_steps"]


# Accumulation ---------------------------------------------------------------------------------------------------------

NUM_SAMPLES = 24


def loop_of(accumulation_steps, name="mlp"):
    """A run without dropout and batch normalisation: there micro-batches are exactly one large batch."""
    config = config_of(
        name, (4, 4), training={"batch_size": NUM_SAMPLES, "accumulation_steps": accumulation_steps, "optimizer": "sgd"}
    )
    keras.utils.set_random_seed(0)
    network = build_network(config, 3)
    parts = assemble(build_preprocessing(config.preprocessing, Normalization((0.5,), (0.2,))), network, ("a", "b", "c"))
    reader = RowReader(ArraySource(NUM_SAMPLES, size=(4, 4)), parts.preprocessing.resize, max_pixels=100, cache="none")
    loop = TrainingLoop(parts, config, World(), reader, None, StopRequest())
    return loop, [v.numpy() for v in loop.variables()["model"]], loop.training_step.at(0)


LOOPS = {}


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    pieces=st.sampled_from([2, 3, 24]),
    num_samples=st.integers(1, NUM_SAMPLES),
    seed=st.integers(0, 2**31 - 1),
)
def test_accumulating_over_micro_batches_is_one_large_step(pieces, num_samples, seed):
    """Also where the micro-batches are of different sizes, or there are fewer samples than pieces."""
    rng = np.random.default_rng(seed)
    batch = Batch(
        rng.uniform(0, 255, (num_samples, 4, 4, 3)).astype(np.float32),
        rng.integers(0, 3, num_samples).astype(np.int32),
        rng.choice([0.0, 1.0], num_samples, p=[0.2, 0.8]).astype(np.float32),
        rng.random((num_samples, len(DRAWS)), dtype=np.float32),
        np.float32(0),
    )
    results = []
    for steps in (1, pieces):
        if steps not in LOOPS:
            LOOPS[steps] = loop_of(steps)
        loop, initial, step = LOOPS[steps]
        for target, value in zip(loop.variables()["model"], initial, strict=True):
            target.assign(value)
        for slot in loop.optimizer.variables:
            slot.assign(np.zeros(slot.shape, slot.dtype)) if "momentum" in slot.path else None
        sums, norm, _ = step(*batch, [0.0, 0.0], 0.05)
        results.append((sums.numpy(), float(norm), [v.numpy() for v in loop.variables()["model"]]))

    (sums, norm, weights), (other_sums, other_norm, other_weights) = results
    np.testing.assert_allclose(sums, other_sums, rtol=1e-5, atol=1e-5)
    assert norm == pytest.approx(other_norm, rel=1e-4, abs=1e-6)
    for weight, other in zip(weights, other_weights, strict=True):
        np.testing.assert_allclose(weight, other, rtol=1e-4, atol=1e-6)
