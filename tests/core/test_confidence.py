"""Intervals of scores."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfpipe.core.confidence import bootstrap, mean_interval, wilson


@pytest.mark.parametrize(
    ("count", "quantile"), [(2, 12.7062), (5, 2.7764), (11, 2.2281), (12, 2.2010), (31, 2.0423), (121, 1.9799)]
)
def test_the_interval_of_a_mean_is_students(count, quantile):
    # Standard deviation 1, mean 0.
    values = np.random.default_rng(0).normal(size=count)
    values = (values - values.mean()) / values.std(ddof=1)

    low, high = mean_interval(values.tolist())

    # Source of the quantiles: Abramowitz & Stegun 1964, table 26.10.
    assert high == pytest.approx(quantile / math.sqrt(count), rel=2e-3)
    assert low == pytest.approx(-high)


def test_one_value_has_no_interval():
    assert all(math.isnan(one) for one in mean_interval([3.0]))


def test_ninety_five_of_a_hundred_intervals_hold_the_mean():
    rng = np.random.default_rng(1)
    intervals = [mean_interval(rng.normal(5.0, 2.0, 4).tolist()) for _ in range(2000)]

    share = np.mean([low <= 5.0 <= high for low, high in intervals])

    # Four standard deviations of a share of 2000.
    assert share == pytest.approx(0.95, abs=0.02)


@given(trials=st.integers(1, 1000), share=st.floats(0, 1))
def test_the_interval_of_a_share_holds_it_and_stays_within_0_and_1(trials, share):
    successes = round(trials * share)

    low, high = wilson(successes, trials)

    assert 0 <= low <= successes / trials + 1e-12
    assert successes / trials - 1e-12 <= high <= 1


def test_nothing_tried_says_nothing():
    assert wilson(0, 0) == (0.0, 1.0)


def test_samples_that_are_alike_leave_no_doubt():
    assert bootstrap(np.ones((50, 1)), lambda counts: float(counts[0]) / 50) == (1.0, 1.0)
