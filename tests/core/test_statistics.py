"""Histograms of training data, and their file."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfpipe.core.errors import BundleError
from tfpipe.core.statistics import OTHER, Statistics, of_categories, of_numbers

samples = st.lists(st.floats(-1e6, 1e6, allow_nan=False), min_size=1, max_size=60).map(np.array)


@given(samples)
def test_the_file_gives_back_what_was_written(values):
    label, _ = of_categories("label", "predictions", ["yes", "no"], [3, 4])
    written = Statistics("60 samples", "7 samples", (of_numbers("length", "inputs", values, "words"), label), 1, (4, 9))

    assert Statistics.from_json(written.to_json(), where="here") == written


@given(samples, samples)
def test_every_number_has_a_bin_and_training_none_outside(values, others):
    feature = of_numbers("some", "inputs", values)

    assert feature.histogram(values).tolist() == list(feature.counts)
    assert (feature.counts[0], feature.counts[-1]) == (0, 0)
    assert feature.histogram(others).sum() == len(others)
    outside = (others < values.min()).sum() + (others > values.max()).sum()
    assert feature.histogram(others)[[0, -1]].sum() == outside
    assert len(feature.bins) == len(feature.counts)


def test_many_numbers_fill_ten_bins_evenly():
    feature = of_numbers("some", "inputs", np.arange(1000))

    assert feature.counts == (0, *[100] * 10, 0)
    assert feature.bins[0] == "below 0"
    assert (feature.mean, feature.is_number) == (499.5, True)


def test_what_is_always_the_same_has_one_bin_and_two_outside():
    feature = of_numbers("width", "inputs", np.full(200, 8.0), "pixels")

    assert feature.counts == (0, 200, 0)
    assert feature.bins == ["below 8", "8", "above 8"]
    assert feature.histogram(np.array([4.0, 8.0, 16.0])).tolist() == [1, 1, 1]


def test_rare_categories_are_one():
    names = [f"class {number}" for number in range(50)]

    feature, kept = of_categories("label", "predictions", names, [*range(50)])

    assert kept == tuple(range(20, 50))
    assert feature.categories == (*names[20:], OTHER)
    assert feature.counts == (*range(20, 50), sum(range(20)))
    assert not feature.is_number
    assert feature.bins[-1] == OTHER


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format_version": 2}, "expected format version 1, received 2. Convert the model again"),
        ({"features": [{}]}, "expected statistics of training data"),
        ({"more": 1}, "expected statistics of training data"),
    ],
)
def test_another_file_is_refused(change, said):
    values = json.loads(Statistics("", "", (of_numbers("a", "inputs", np.arange(3)),)).to_json())

    with pytest.raises(BundleError, match=said):
        Statistics.from_json(json.dumps(values | change), where="statistics.json")


def test_counts_that_do_not_fit_their_bins_are_refused():
    values = json.loads(Statistics("", "", (of_numbers("a", "inputs", np.arange(3)),)).to_json())
    values["features"][0]["counts"] = [1]

    with pytest.raises(BundleError, match="feature 'a': expected"):
        Statistics.from_json(json.dumps(values), where="statistics.json")
