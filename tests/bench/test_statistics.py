"""Figures and their intervals."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfpipe.bench import statistics
from tfpipe.bench.channel import Reply
from tfpipe.bench.record import Record

latencies = st.lists(st.floats(2e-6, 900.0), min_size=1, max_size=300)


def record_of(latencies_s: list[float], *, duration_s: float = 10.0, failed: int = 0) -> Record:
    record = Record(started_s=100.0, ended_s=100.0 + duration_s)
    for moment_s, latency_s in zip(
        np.linspace(0, duration_s, len(latencies_s), endpoint=False), latencies_s, strict=True
    ):
        record.add(100.0 + moment_s, 100.0 + moment_s + latency_s, Reply("200", ok=True))
    for _ in range(failed):
        record.add(100.0, 100.1, Reply("500", ok=False, body=b"oh"))
    return record


@given(latencies_s=latencies, quantile=st.sampled_from([0.5, 0.9, 0.99]))
def test_a_quantile_is_one_of_the_latencies_and_so_many_lie_below_it(latencies_s, quantile):
    found = statistics.latency([record_of(latencies_s)], quantile).value

    assert np.isclose(latencies_s, found, rtol=1e-6, atol=1e-9).any()
    below = np.mean(np.asarray(latencies_s) <= found * (1 + 1e-6) + 1e-9)
    assert below >= quantile - 1e-9


@given(latencies_s=latencies, quantile=st.sampled_from([0.5, 0.95]))
def test_a_quantile_of_counted_classes_is_within_half_a_percent(latencies_s, quantile):
    counts = np.bincount(statistics.classify(np.asarray(latencies_s)), minlength=5000).astype(float)

    found = statistics.quantile_of(counts, quantile)

    exact = np.quantile(latencies_s, quantile, method="inverted_cdf")
    assert found == pytest.approx(exact, rel=0.006)


@given(latencies_s=latencies)
def test_an_interval_holds_its_value(latencies_s):
    record = record_of(latencies_s)

    for estimate in (statistics.latency([record], 0.95), statistics.throughput([record])):
        assert estimate.low <= estimate.value * (1 + 1e-9) + 1e-9
        assert estimate.high >= estimate.value * (1 - 1e-9) - 1e-9


def test_intervals_are_wide_where_the_service_was_fast_and_slow_by_turns_not_at_random():
    # The same thousand latencies: mixed, and each half in one piece.
    rng = np.random.default_rng(0)
    pieces = [0.001] * 850 + [0.1] * 150
    mixed = rng.permutation(pieces).tolist()

    def width(latencies_s: list[float]) -> float:
        estimate = statistics.latency([record_of(latencies_s)], 0.9)
        return estimate.high - estimate.low

    assert width(pieces) > 10 * max(width(mixed), 1e-4)


def test_answers_after_the_end_count_for_no_throughput():
    # 10 seconds, 10 answers, of which the last comes after 20 s.
    record = record_of([0.1] * 9 + [15.0])

    assert statistics.throughput([record]).value == pytest.approx(0.9)


def test_nothing_answered_has_no_latency():
    assert math.isnan(statistics.latency([record_of([], failed=3)], 0.5).value)


@given(
    first=st.lists(st.floats(0.1, 10.0), min_size=2, max_size=12),
    factor=st.floats(0.1, 10.0),
)
def test_a_ratio_that_is_the_same_in_every_turn_is_certain(first, factor):
    found = statistics.ratio(first, [value / factor for value in first])

    assert found.value == pytest.approx(factor)
    assert found.low == pytest.approx(factor, rel=1e-6)
    assert found.high == pytest.approx(factor, rel=1e-6)


def test_one_turn_gives_no_interval_of_a_ratio():
    found = statistics.ratio([2.0], [1.0])

    assert found.value == pytest.approx(2.0)
    assert math.isnan(found.low)
