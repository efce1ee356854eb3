"""Distances of histograms."""

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from tfpipe.core.drift import LEAST_ROWS, ks, ks_noise, psi, psi_limit, psi_noise, verdict
from tfpipe.core.statistics import of_numbers

numbers = st.floats(-1e6, 1e6, allow_nan=False)
samples = st.lists(numbers, min_size=8, max_size=60).map(np.array)
counts = st.lists(st.integers(0, 1000), min_size=2, max_size=30)


@st.composite
def two_histograms(draw):
    one = draw(counts)
    other = draw(st.lists(st.integers(0, 1000), min_size=len(one), max_size=len(one)))
    assume(sum(one) and sum(other))
    return np.array(one), np.array(other)


@given(counts, st.integers(1, 9))
def test_equal_shares_are_no_distance(one, times):
    assume(sum(one))
    histogram = np.array(one)

    assert psi(histogram, histogram * times) == pytest.approx(0, abs=1e-12)
    assert ks(histogram, histogram * times) == pytest.approx(0, abs=1e-12)


@given(two_histograms())
def test_distances_are_symmetric_finite_and_not_negative(histograms):
    one, other = histograms

    assert psi(one, other) == pytest.approx(psi(other, one))
    assert ks(one, other) == pytest.approx(ks(other, one))
    assert 0 <= psi(one, other) < np.inf
    assert 0 <= ks(one, other) <= 1 + 1e-12


@given(samples, samples)
def test_ks_is_that_of_the_samples_but_for_what_lies_in_one_bin(training, live):
    feature = of_numbers("some", "inputs", training)
    expected, actual = np.array(feature.counts), feature.histogram(live)

    exact = stats.ks_2samp(training, live, method="asymp").statistic

    fullest = max((expected / expected.sum()).max(), (actual / actual.sum()).max())
    assert ks(expected, actual) - 1e-9 <= exact <= ks(expected, actual) + fullest + 1e-9


def test_psi_is_what_the_formula_says_where_no_bin_is_small():
    one, other = np.array([5000, 5000]), np.array([8000, 2000])

    assert psi(one, other) == pytest.approx(0.3 * np.log(0.8 / 0.5) + -0.3 * np.log(0.2 / 0.5), rel=1e-3)


def test_a_single_row_in_an_empty_bin_is_no_drift():
    training, live = np.array([0, 100, 100, 0]), np.array([1, 250, 249, 0])

    assert psi(training, live) < 0.02


@pytest.mark.parametrize(("expected", "actual"), [(200, 1000), (360, 100), (5000, 1000)])
def test_one_index_in_a_hundred_of_one_population_exceeds_the_noise(expected, actual):
    rng = np.random.default_rng(7)
    shares = np.full(10, 0.1)

    indices = [psi(rng.multinomial(expected, shares), rng.multinomial(actual, shares)) for _ in range(2000)]

    assert 0.98 <= np.mean(np.array(indices) <= psi_noise(10, expected, actual)) <= 0.998


def test_the_noise_of_ks_is_its_critical_value():
    rng = np.random.default_rng(7)

    found = [stats.ks_2samp(*(rng.normal(size=size) for size in (200, 300)), method="asymp") for _ in range(200)]

    beyond = [one.statistic > ks_noise(200, 300) for one in found]
    assert beyond == [one.pvalue < 0.01 for one in found]


def test_few_training_samples_raise_the_limit():
    assert psi_limit(11, 5000, 1000) == 0.25
    assert psi_limit(11, 50, 100) > 0.6
    assert psi_limit(11, 5000, 1000, drifted=0.1) == 0.1


@pytest.mark.parametrize(
    ("index", "rows", "said"),
    [
        (0.01, LEAST_ROWS, "steady"),
        (0.11, LEAST_ROWS, "moved"),
        (0.26, LEAST_ROWS, "drifted"),
        (9.0, LEAST_ROWS - 1, "too few rows"),
    ],
)
def test_verdicts(index, rows, said):
    assert verdict(index, 0.25, rows) == said


@pytest.mark.parametrize(("one", "other"), [([1, 2], [1, 2, 3]), ([0, 0], [1, 1]), ([1, 1], [0, 0])])
def test_histograms_that_cannot_be_compared_are_refused(one, other):
    with pytest.raises(ValueError, match="expected two of the same bins, each with a count"):
        psi(np.array(one), np.array(other))
