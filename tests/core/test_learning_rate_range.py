"""The arithmetic of the learning-rate range test."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfpipe.core.learning_rate_range import diverged, ramp, smoothed, steepest


@given(steps=st.integers(2, 500), lowest=st.floats(1e-9, 1e-3), factor=st.floats(1.5, 1e9))
def test_each_rate_is_the_same_multiple_of_the_last(steps, lowest, factor):
    rates = [ramp(step, steps=steps, lowest=lowest, highest=lowest * factor) for step in range(steps)]

    assert rates[0] == pytest.approx(lowest)
    assert rates[-1] == pytest.approx(lowest * factor)
    np.testing.assert_allclose(np.diff(np.log(rates)), math.log(factor) / (steps - 1), rtol=1e-6, atol=1e-12)


@given(level=st.floats(-100, 100), count=st.integers(1, 50))
def test_a_constant_loss_is_its_own_average(level, count):
    assert smoothed([level] * count) == pytest.approx([level] * count)


def test_the_smoothed_loss_is_that_of_a_plain_average_with_the_same_weights():
    losses = [3.0, 1.0, 2.0, 5.0]

    expected = [np.average(losses[: n + 1], weights=[0.9 ** (n - i) for i in range(n + 1)]) for n in range(4)]

    assert smoothed(losses) == pytest.approx(expected)


@pytest.mark.parametrize("centre", [1e-4, 1e-2])
def test_the_steepest_point_of_a_sigmoid_descent_is_its_middle(centre):
    rates = [ramp(step, steps=100, lowest=1e-7, highest=10.0) for step in range(100)]
    descent = [2.0 - 1.0 / (1.0 + (centre / rate) ** 1.5) for rate in rates]
    # Beyond the valley the loss jumps, and falls off the cliff faster than it ever did before.
    cliffs = [loss + (20.0 if 90 <= step < 95 else 3.0 * (step >= 80)) for step, loss in enumerate(descent)]

    for losses in (descent, cliffs):
        assert steepest(rates, losses) == pytest.approx(centre, rel=0.3)


@pytest.mark.parametrize("losses", [[1.0] * 50, list(range(50)), [1.0, 0.5], [math.nan] * 20, []])
def test_a_loss_that_does_not_fall_gives_no_rate(losses):
    assert steepest([10.0**-9 * 1.2**i for i in range(len(losses))], losses) is None


def test_divergence_is_four_times_the_least_or_no_number_at_all():
    assert not diverged([])
    assert not diverged([2.0, 1.0, 4.0])
    assert diverged([2.0, 1.0, 4.01])
    assert not diverged([-1.0, -2.0, -1.0])
    assert not diverged([-2.0])
    assert diverged([2.0, math.nan])
    assert diverged([2.0, math.inf])
