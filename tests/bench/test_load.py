"""Loads against real small servers."""

import asyncio
from urllib.parse import urlsplit

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.bench.http_servers import Answering, answering
from tfpipe.bench.http_channel import HttpChannel, render_request
from tfpipe.bench.load import Load, poisson_arrivals
from tfpipe.bench.record import Record
from tfpipe.bench.statistics import throughput

STALL_S = 1.0


def run_load(
    url: str, *, rate: float | None, duration_s: float, connections: int, timeout_s: float = 5.0, lead_s: float = 0.0
) -> Record:
    parts = urlsplit(url)
    request = render_request(parts, "POST", "/predict", {}, b"body")

    async def run() -> Record:
        load = Load(lambda: HttpChannel(parts, timeout_s=timeout_s), [request], connections=connections)
        try:
            if rate is None:
                return await load.closed_loop(duration_s, lead_s=lead_s)
            return await load.open_loop(poisson_arrivals(rate, duration_s, np.random.default_rng(0)), duration_s)
        finally:
            load.close()

    return asyncio.run(run())


def stall_once(number: int, second: float) -> tuple[int, bytes, float]:
    # The 30th request stops the whole server.
    return 200, b"{}", STALL_S if number == 30 else 0.0


def test_an_open_loop_sees_all_that_a_stall_delays_where_a_closed_loop_sees_one():
    with answering(Answering(answer=stall_once)) as server:
        closed = run_load(server.url, rate=None, duration_s=2.0, connections=1)
    with answering(Answering(answer=stall_once)) as server:
        opened = run_load(server.url, rate=100, duration_s=2.0, connections=64)

    # One of many requests waited in the closed loop; of the open one all that were due within the pause, half of them
    # longer than half of it.
    assert np.sum(closed.latencies_s > STALL_S / 4) == 1
    assert np.quantile(closed.latencies_s, 0.95) < STALL_S / 4
    assert np.mean(opened.latencies_s > STALL_S / 4) > 0.25
    assert np.quantile(opened.latencies_s, 0.95) > STALL_S / 2


def test_a_closed_loop_counts_what_comes_once_the_service_is_busy():
    def answer(number: int, second: float) -> tuple[int, bytes, float]:
        return 200, b"{}", 0.4

    counted = []
    for lead_s in (0.0, 0.7):
        with answering(Answering(answer=answer)) as server:
            record = run_load(server.url, rate=None, duration_s=0.7, connections=4, lead_s=lead_s)
        counted.append(round(throughput([record]).value * record.duration_s))

    # Answers come after 0.4, 0.8, 1.2 s: once in the first 0.7 s, twice in the next.
    assert counted == [4, 8]


def test_how_busy_the_generator_is_is_told_of_all_that_it_did():
    with answering(Answering()) as server:
        record = run_load(server.url, rate=None, duration_s=0.1, connections=4, lead_s=1.0)

    assert 0.0 < record.busy_share < 2.0


def test_an_open_loop_with_too_few_connections_counts_the_wait_for_one():
    with answering(Answering(answer=stall_once)) as server:
        record = run_load(server.url, rate=100, duration_s=2.0, connections=2)

    assert np.mean(record.latencies_s > STALL_S / 4) > 0.25


def test_every_request_is_counted_by_its_outcome():
    def answer(number: int, second: float) -> tuple[int, bytes, float]:
        return (429, b"slower, please", 0.0) if number % 2 else (200, b"{}", 0.0)

    with answering(Answering(answer=answer)) as server:
        record = run_load(server.url, rate=None, duration_s=0.3, connections=4)
        received = len(server.asked)

    assert record.sent == received
    assert record.outcomes["429"] + record.outcomes["200"] == record.sent
    assert record.answered == record.outcomes["200"]
    assert record.refusals == {"429": "slower, please"}


def test_an_answer_that_does_not_come_is_a_timeout_and_the_connection_is_not_used_again():
    def answer(number: int, second: float) -> tuple[int, bytes, float]:
        return 200, b"{}", 0.6 if number == 1 else 0.0

    with answering(Answering(answer=answer)) as server:
        record = run_load(server.url, rate=None, duration_s=1.2, connections=1, timeout_s=0.2)

    assert record.outcomes["timeout"] >= 1
    assert record.answered > 0
    assert record.latencies_s.max() < 0.6


def test_a_service_that_is_away_is_counted_and_not_hammered():
    record = run_load("http://127.0.0.1:1", rate=None, duration_s=0.5, connections=2)

    assert set(record.outcomes) == {"unreachable"}
    assert 2 <= record.sent <= 40
    assert "127.0.0.1" in record.refusals["unreachable"] or "refused" in record.refusals["unreachable"]


@given(rate=st.floats(1.0, 5000.0), duration_s=st.floats(0.01, 2.0), seed=st.integers(0, 2**32))
def test_arrivals_are_within_the_turn_rise_and_are_about_as_many_as_asked(rate, duration_s, seed):
    moments = poisson_arrivals(rate, duration_s, np.random.default_rng(seed))

    assert np.all(np.diff(moments) >= 0)
    assert np.all((moments >= 0) & (moments <= duration_s))
    # Six standard deviations of a Poisson number.
    assert abs(len(moments) - rate * duration_s) <= 6 * np.sqrt(rate * duration_s) + 6


def test_gaps_between_arrivals_are_exponential():
    gaps = np.diff(poisson_arrivals(1000.0, 100.0, np.random.default_rng(1)))

    # Mean and standard deviation of an exponential distribution are equal; of a clock's ticks the latter is 0.
    assert np.mean(gaps) == pytest.approx(1e-3, rel=0.02)
    assert np.std(gaps) == pytest.approx(1e-3, rel=0.03)
