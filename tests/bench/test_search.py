"""Limits, and the highest rate that holds them."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.bench.test_statistics import record_of
from tfpipe.bench.criteria import parse_criterion
from tfpipe.bench.search import highest_rate
from tfpipe.core.errors import ConfigError


@given(capacity=st.floats(1.0, 1e5), factor=st.floats(0.1, 10.0))
def test_a_sharp_capacity_is_found_to_five_percent_and_never_exceeded(capacity, factor):
    async def holds(rate: float) -> bool:
        return rate <= capacity

    found = asyncio.run(highest_rate(holds, start=capacity * factor))

    assert found is not None
    assert capacity / 1.05 * (1 - 1e-9) <= found <= capacity


def test_a_rate_that_held_by_luck_does_not_stand():
    tried = []

    async def holds(rate: float) -> bool:
        tried.append(rate)
        # Between 100 and 150 it holds every other time.
        return rate <= 100 or (rate <= 150 and len(tried) % 2 == 0)

    found = asyncio.run(highest_rate(holds, start=120.0))

    assert found is not None
    assert found <= 100
    assert tried[-3:] == [found] * 3


def test_where_nothing_holds_there_is_no_rate():
    async def holds(rate: float) -> bool:
        return False

    assert asyncio.run(highest_rate(holds, start=100.0)) is None


def test_limits_are_read():
    criterion = parse_criterion("p95<50ms, p99.9 < 0.2s,errors<0.5%")

    assert criterion.latencies == ((0.95, 0.05), (pytest.approx(0.999), 0.2))
    assert criterion.errors == pytest.approx(0.005)
    assert parse_criterion("p95<50ms").least_requests == 400


@pytest.mark.parametrize("text", ["p95<50", "p95>50ms", "mean<5ms", "", "errors<1%", "p95<50ms,,"])
def test_limits_of_another_form_are_refused(text):
    with pytest.raises(ConfigError, match=r"--search: expected .*'p95<50ms"):
        parse_criterion(text)


def test_a_request_without_an_answer_counts_as_one_that_took_for_ever():
    criterion = parse_criterion("p95<50ms, errors<50%")

    assert criterion.judge(record_of([0.01] * 96, failed=4)).holds
    verdict = criterion.judge(record_of([0.01] * 94, failed=6))
    assert not verdict.holds
    assert verdict.to_dict()["latency_ms"] == {"p95": None}


def test_errors_alone_break_a_limit():
    verdict = parse_criterion("p50<50ms").judge(record_of([0.01] * 98, failed=2))

    assert not verdict.holds
    assert verdict.problem == "errors 2.00%"
