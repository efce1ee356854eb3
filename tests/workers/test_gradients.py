"""Gradients after the reduction, and what optimizers make of them."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfpipe.training.optimizer import DataParallelOptimizer
from tfpipe.training.reduction import reduce_gradients

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
                expected = sum(rank[i].astype(np.float64) for rank in all_gradients) / max(1, sum(weights))
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


def gradients_of_all(world, shapes, *, seed):
    """What every rank has, so that each can tell what the reduction must give."""
    return [
        [np.random.default_rng([seed, rank, i]).normal(size=shape).astype(np.float32) for i, shape in enumerate(shapes)]
        for rank in range(world.size)
    ]


@pytest.mark.parametrize(("compression", "rounding"), [("fp16", 2.0**-10), ("bf16", 2.0**-7)])
def test_compressed_gradients_are_equal_on_all_workers_and_near_the_exact_ones(world, agreed, compression, rounding):
    everybodys = gradients_of_all(world, [(7,), (3, 5), ()], seed=1)
    mine = [tf.constant(gradient) for gradient in everybodys[world.rank]]

    reduced, total = reduce_gradients(mine, tf.constant([2.0]), world, compression=compression)
    everyone = world.gather_objects([gradient.numpy() for gradient in reduced])

    def assertions():
        assert float(total[0]) == 2.0 * world.size
        for i, values in enumerate(zip(*everybodys, strict=True)):
            expected, largest = sum(values) / (2.0 * world.size), max(np.abs(value).max() for value in values)
            assert all(rank[i].tobytes() == everyone[0][i].tobytes() for rank in everyone)
            # Each value is rounded once where it is sent, and their sum once more.
            np.testing.assert_allclose(everyone[0][i], expected, atol=2 * largest * rounding)

    agreed(assertions)


def test_sparse_gradients_of_an_embedding_are_summed_row_by_row(world, agreed):
    """Workers look up other rows, some twice, and other numbers of them."""
    rng = np.random.default_rng(world.rank)
    indices = rng.integers(0, 6, 3 + world.rank)
    values = rng.normal(size=(len(indices), 4)).astype(np.float32)
    sparse = tf.IndexedSlices(tf.constant(values), tf.constant(indices), tf.constant([6, 4]))

    (reduced,), _ = reduce_gradients([sparse], tf.constant([1.0]), world)
    dense = tf.convert_to_tensor(reduced).numpy()
    everyone = world.gather_objects((indices, values, dense))

    def assertions():
        expected = np.zeros((6, 4), np.float32)
        for rows, numbers, _ in everyone:
            np.add.at(expected, rows, numbers)
        assert isinstance(reduced, tf.IndexedSlices)
        assert len(set(reduced.indices.numpy())) == len(reduced.indices)
        assert all(given.tobytes() == everyone[0][2].tobytes() for *_, given in everyone)
        np.testing.assert_allclose(dense, expected / world.size, rtol=1e-5, atol=1e-6)

    agreed(assertions)


def adasum_of(first, second):
    product = float((first * second).sum())
    return (1 - product / (2 * (first**2).sum())) * first + (1 - product / (2 * (second**2).sum())) * second


def test_adasum_combines_the_workers_means_tensor_by_tensor_over_a_tree(world, agreed):
    shapes = [(5,), (2, 3), (11,)]
    everybodys = gradients_of_all(world, shapes, seed=3)
    weight = 2.0 + world.rank
    mine = [tf.constant(gradient * weight) for gradient in everybodys[world.rank]]

    reduced, total = reduce_gradients(mine, tf.constant([weight]), world, reduction="adasum")
    everyone = world.gather_objects([gradient.numpy() for gradient in reduced])

    def assertions():
        assert float(total[0]) == sum(2.0 + rank for rank in range(world.size))
        for i, shape in enumerate(shapes):
            level = [rank[i].astype(np.float64) for rank in everybodys]
            while len(level) > 1:
                combined = [adasum_of(a, b) for a, b in zip(level[::2], level[1::2], strict=False)]
                level = combined + level[2 * len(combined) :]
            assert everyone[0][i].shape == shape
            assert all(rank[i].tobytes() == everyone[0][i].tobytes() for rank in everyone)
            np.testing.assert_allclose(everyone[0][i], level[0], rtol=1e-4, atol=1e-5)

    agreed(assertions)


def test_adasum_adds_orthogonal_gradients_and_averages_equal_ones(world, agreed):
    own = np.eye(world.size, dtype=np.float32)[world.rank] * 3

    (orthogonal, equal, nothing), _ = reduce_gradients(
        [tf.constant(own), tf.ones(4), tf.zeros(2)], tf.constant([1.0]), world, reduction="adasum"
    )

    def assertions():
        np.testing.assert_allclose(orthogonal, np.full(world.size, 3.0), rtol=1e-6)
        np.testing.assert_allclose(equal, np.ones(4), rtol=1e-6)
        np.testing.assert_allclose(nothing, np.zeros(2))

    agreed(assertions)
