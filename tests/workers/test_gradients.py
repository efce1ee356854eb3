"""Gradients after the reduction, and what optimizers make of them."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfpipe.training.optimizer import DataParallelOptimizer, reduce_gradients

SHAPES = st.lists(st.lists(st.integers(1, 5), max_size=3).map(tuple), min_size=1, max_size=6)


# Feature: deep-learning-pipeline, Property 2: Gradient synchronisation
def test_all_workers_hold_identical_gradients_after_synchronisation(world, agreed):
    @settings(max_examples=100, deadline=None, derandomize=True, database=None)
    @given(
        shapes=SHAPES,
        seed=st.integers(0, 2**31 - 1),
        weights=st.lists(st.integers(0, 9), min_size=world.size, max_size=world.size),
        scale=st.sampled_from([1e-6, 1.0, 1e6]),
    )
    def holds(shapes, seed, weights, scale):
        # Every rank knows what all ranks have, and so what the reduction must give.
        all_gradients = [
            [
                np.random.default_rng([seed, rank, i]).normal(0, scale, shape).astype(np.float32)
                for i, shape in enumerate(shapes)
            ]
            for rank in range(world.size)
        ]
        mine = [tf.constant(gradient) for gradient in all_gradients[world.rank]]
        reduced, total = reduce_gradients(mine, tf.constant([float(weights[world.rank])]), world)
        everyone = world.gather_objects([gradient.numpy() for gradient in reduced])

        def assertions():
            assert float(total[0]) == sum(weights)
            for i, shape in enumerate(shapes):
                expected = sum(np.float64(rank[i]) for rank in all_gradients) / max(1, sum(weights))
                for rank in everyone:
                    assert rank[i].shape == shape
                    # To the last bit between workers; against float64 within float32's rounding of N terms.
                    assert rank[i].tobytes() == everyone[0][i].tobytes()
                    np.testing.assert_allclose(rank[i], expected, rtol=1e-5, atol=1e-6 * scale)

        agreed(assertions)

    holds()


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW"])
def test_model_fit_with_a_wrapped_optimizer_keeps_the_workers_together(world, agreed, name):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="relu"), keras.layers.Dense(2)])
    optimizer = DataParallelOptimizer(getattr(keras.optimizers, name)(0.05), world)
    model.compile(optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True), auto_scale_loss=False)
    rng = np.random.default_rng(world.rank)

    model.fit(rng.normal(size=(32, 4)), rng.integers(0, 2, 32), batch_size=8, epochs=2, shuffle=False, verbose=0)
    everyone = world.gather_objects([weight.numpy().tobytes() for weight in model.weights])

    def assertions():
        assert all(rank == everyone[0] for rank in everyone)
        assert int(optimizer.iterations) == 8

    agreed(assertions)


def test_a_gradient_that_overflows_on_one_worker_makes_all_skip_the_step(world, agreed):
    variable = keras.Variable(np.ones(3, np.float32))
    optimizer = DataParallelOptimizer(keras.optimizers.SGD(1.0), world, scale_loss=True)
    optimizer.build([variable])
    bad = np.full(3, np.inf if world.rank == world.size - 1 else 1.0, np.float32)

    optimizer.apply_sums([tf.constant(bad)], [variable], tf.ones((1,)))
    everyone = world.gather_objects((variable.numpy().tolist(), float(optimizer.loss_scale.value)))

    def assertions():
        assert all(rank == ([1.0, 1.0, 1.0], 2.0**14) for rank in everyone)

    agreed(assertions)
