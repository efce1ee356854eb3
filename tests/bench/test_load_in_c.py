"""The generator of the benchmarks against real small servers."""

import os
import shutil
from urllib.parse import urlsplit

import pytest

from benchmarks.load import GENERATOR_CORE, send_load
from tests.bench.http_servers import Answering, answering
from tfpipe.bench.http_channel import render_request

pytestmark = pytest.mark.skipif(
    shutil.which("cc") is None or not {0, GENERATOR_CORE} <= os.sched_getaffinity(0),
    reason="needs a C compiler and two cores",
)


def requests_to(url: str, *bodies: bytes) -> list[bytes]:
    return [render_request(urlsplit(url), "POST", "/", {}, body) for body in bodies]


def test_every_answer_is_counted_and_bodies_are_sent_in_turn():
    def answer(number: int, second: float) -> tuple[int, bytes, float]:
        return (429, b"no", 0.0) if number % 4 == 0 else (200, b"x" * 100_000, 0.0)

    with answering(Answering(answer=answer)) as server:
        port = urlsplit(server.url).port
        requests = requests_to(server.url, b"a", b"b" * 200_000)
        loaded = send_load(port, requests, connections=3, seconds=0.6, warm_up_s=0.0)

    # What is under way at the end is sent and not counted.
    counted = sum(loaded.statuses.values())
    assert counted <= len(server.asked) <= counted + 3
    assert loaded.failed == loaded.statuses["429"]
    assert abs(loaded.statuses["429"] - counted / 4) <= 3
    sizes = [len(asked.body) for asked in server.asked]
    assert abs(sizes.count(1) - sizes.count(200_000)) <= 3
    assert set(sizes) == {1, 200_000}


def test_an_open_loop_counts_from_when_requests_were_due():
    def stall_once(number: int, second: float) -> tuple[int, bytes, float]:
        return 200, b"{}", 1.0 if number == 30 else 0.0

    with answering(Answering(answer=stall_once)) as server:
        requests = requests_to(server.url, b"a")
        loaded = send_load(urlsplit(server.url).port, requests, connections=2, seconds=2.0, warm_up_s=0.0, rate=100.0)

    # Half of the 2 seconds is the pause, and what was due in it waited half of it on average.
    assert loaded.unanswered == 0
    assert loaded.p95_ms > 500
    # Six standard deviations of a Poisson number of 200.
    assert abs(loaded.statuses["200"] - 200) < 85


def test_a_server_that_closes_each_connection_is_asked_on():
    closing = Answering(answer=lambda number, second: (200, b"{}", 0.0), closes=True)
    with answering(closing) as server:
        loaded = send_load(
            urlsplit(server.url).port, requests_to(server.url, b"a"), connections=2, seconds=0.5, warm_up_s=0.0
        )

    assert loaded.statuses.keys() == {"200"}
    assert loaded.statuses["200"] > 4


def test_nothing_answered_is_an_error():
    refusing = Answering(answer=lambda number, second: (500, b"", 0.0))
    with answering(refusing) as server, pytest.raises(RuntimeError, match=r"expected answers, received .*'500'"):
        send_load(urlsplit(server.url).port, requests_to(server.url, b"a"), connections=1, seconds=0.2, warm_up_s=0.0)


def test_throughput_counts_answers_whenever_they_were_asked_for():
    slow = Answering(answer=lambda number, second: (200, b"{}", 0.3))
    with answering(slow) as server:
        requests = requests_to(server.url, b"a")
        loaded = send_load(urlsplit(server.url).port, requests, connections=2, seconds=1.2, warm_up_s=0.5)

    # Answers come at 0.6, 0.9, 1.2 and 1.5 s; those at 0.6 s were asked for before the time that counts.
    assert loaded.throughput == pytest.approx(2 / 0.3, rel=0.1)
