"""Clients that are slow, silent, endless or many, on real sockets."""

import contextlib
import math
import socket
import time
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.serving.bundles import RED
from tests.serving.servers import app_of, process, serving, wait_for

_IDLE_CONNECTIONS = 1000
_TIMEOUT_MS = 1500


@pytest.fixture(scope="module")
def service(bundle):
    with process(model=str(bundle), body_timeout_ms=str(_TIMEOUT_MS)) as started:
        wait_for(started.is_ready)
        yield started


@contextlib.contextmanager
def connected(service, sent: bytes = b""):
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=20) as client:
        client.sendall(sent)
        yield client


def received(client: socket.socket) -> bytes:
    """All until the service closes."""
    content = b""
    with contextlib.suppress(ConnectionResetError):
        while chunk := client.recv(65536):
            content += chunk
    return content


def received_until(client: socket.socket, words: bytes) -> bytes:
    """All until some words came; an answer may come in several pieces."""
    content = b""
    while words not in content and (chunk := client.recv(65536)):
        content += chunk
    return content


def open_files(service) -> int:
    return len(list(Path(f"/proc/{service.pid}/fd").iterdir()))


def in_flight(service) -> float:
    families = text_string_to_metric_families(service.get("/metrics").text)
    return next(one.samples[0].value for one in families if one.name == "tfpipe_in_flight")


def is_answered_at_once(service) -> bool:
    began_s = time.monotonic()
    answer = service.post("/predict", content=RED, timeout=20)
    # A busy machine is slow; whoever waited for a slow client would take its whole time.
    return answer.status_code == 200 and time.monotonic() - began_s < _TIMEOUT_MS / 1000


def test_a_connection_on_which_nothing_is_said_is_closed_in_time(service):
    began_s = time.monotonic()
    with connected(service) as client:
        assert received(client) == b""

    assert _TIMEOUT_MS / 1000 * 0.9 < time.monotonic() - began_s < 10


def test_half_a_head_is_408_in_time(service):
    with connected(service, b"POST /predict HTTP/1.1\r\nhost: a\r\nx-a: ") as client:
        assert is_answered_at_once(service)
        assert received(client).startswith(b"HTTP/1.1 408 ")


def test_half_a_head_after_an_answered_request_is_408_too(service):
    with connected(service, b"GET /health/live HTTP/1.1\r\nhost: a\r\n\r\n") as client:
        assert received_until(client, b'{"status":"live"}').startswith(b"HTTP/1.1 200 ")
        client.sendall(b"GET /health/live HT")

        assert received(client).startswith(b"HTTP/1.1 408 ")


def test_a_head_that_comes_byte_by_byte_has_no_more_time(service):
    began_s = time.monotonic()
    with connected(service, b"GET / HTTP/1.1\r\n") as client, contextlib.suppress(OSError):
        while time.monotonic() - began_s < 15:
            client.sendall(b"x")
            time.sleep(0.1)  # the client's slowness

    assert time.monotonic() - began_s < 10


def test_a_head_without_end_is_431(service):
    with connected(service) as client:
        with contextlib.suppress(OSError):
            client.sendall(b"GET / HTTP/1.1\r\n" + b"x-a: b\r\n" * 100_000)
        assert received(client)[:13] in (b"HTTP/1.1 431 ", b"")
    assert is_answered_at_once(service)


def test_half_a_body_is_408_in_time(service):
    head = b"POST /predict HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n"
    with connected(service, head + bytes(500)) as client:
        assert is_answered_at_once(service)
        answer = received_until(client, b'"body_timeout"')

    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"body_timeout"' in answer


def test_a_client_that_goes_away_half_way_leaves_nothing_in_flight(service):
    head = b"POST /predict HTTP/1.1\r\nhost: a\r\ncontent-length: 1000\r\n\r\n"
    for _ in range(20):
        with connected(service, head + bytes(500)):
            pass

    wait_for(lambda: in_flight(service) == 0)
    assert is_answered_at_once(service)


def test_a_connection_rests_for_as_long_as_the_setting_says(bundle):
    with process(model=str(bundle), keep_alive_s="2") as started:
        wait_for(lambda: httpx.get(f"{started.url}/health").status_code == 200)
        with connected(started, b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\n") as client:
            began_s = time.monotonic()
            assert received(client).startswith(b"HTTP/1.1 200")
            rested_s = time.monotonic() - began_s

    # uvicorn's own would be 5 s.
    assert 1.9 < rested_s < 4.5


def test_a_thousand_idle_connections_keep_nobody_waiting_and_go(service):
    before = open_files(service)
    with contextlib.ExitStack() as stack:
        for _ in range(_IDLE_CONNECTIONS):
            stack.enter_context(connected(service))
        assert is_answered_at_once(service)

        wait_for(lambda: open_files(service) <= before + 20)

    assert is_answered_at_once(service)


def test_the_metrics_agree_with_what_the_client_counted(service):
    def counted() -> dict[str, float]:
        families = text_string_to_metric_families(service.get("/metrics").text)
        samples = [sample for family in families for sample in family.samples]
        return {one.labels["code"]: one.value for one in samples if one.name == "tfpipe_requests_total"}

    before = counted()
    statuses: list[str] = []
    with httpx.Client(base_url=service.url, timeout=20) as client:
        for number in range(120):
            content = RED if number % 3 else b"junk"
            path = "/predict?model_name=other" if number % 10 == 0 else "/predict"
            statuses.append(str(client.post(path, content=content).status_code))

    after = counted()
    seen = {code: statuses.count(code) for code in set(statuses)}
    assert {code: after[code] - before.get(code, 0) for code in after if after[code] != before.get(code, 0)} == seen
    assert set(seen) == {"200", "400", "404"}


def request(
    *headers: str, method: str = "POST", path: str = "/predict", version: str = "1.1", body: bytes = RED
) -> bytes:
    lines = [f"{method} {path} HTTP/{version}", "Host: x", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def test_requests_that_are_sent_at_once_are_answered_in_their_order(service):
    names = [f"number-{index}" for index in range(5)]
    sent = [request(f"X-Request-ID: {name}") for name in names]
    sent.append(request("Connection: close", "X-Request-ID: last"))

    with connected(service, b"".join(sent)) as client:
        answers = received(client).split(b"HTTP/1.1 ")[1:]

    assert [answer[:3] for answer in answers] == [b"200"] * 6
    assert [
        f"x-request-id: {name}\r\n".encode() in answer for name, answer in zip([*names, "last"], answers, strict=True)
    ] == [True] * 6
    # Each is whole, and says how long it is.
    for answer in answers:
        head, _, body = answer.partition(b"\r\n\r\n")
        assert f"content-length: {len(body)}\r\n".encode() in head + b"\r\n"


@pytest.mark.parametrize(
    "sent", [request("Connection: close"), request(version="1.0")], ids=["asked to close", "HTTP/1.0"]
)
def test_a_connection_that_is_not_kept_is_closed_after_its_answer(service, sent):
    with connected(service, sent) as client:
        answer = received(client)

    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.count(b"connection: close\r\n") == 1
    assert b'"label"' in answer


def test_an_answer_to_head_has_a_head_alone(service):
    with connected(service, request("Connection: close", method="HEAD", path="/v2/health/live", body=b"")) as client:
        answer = received(client)

    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]) > 0
    assert body == b""


def test_a_client_that_reads_nothing_keeps_nobody_waiting(service):
    with connected(service) as client:
        client.settimeout(1)
        with contextlib.suppress(TimeoutError):
            for _ in range(200):
                client.sendall(request() * 10)
        assert is_answered_at_once(service)


@pytest.mark.parametrize(
    "path", ["/predict", "/predict/batch", "/v2/models/colours/infer", "/v1/models/colours:predict"]
)
def test_a_full_queue_refuses_before_the_body_and_the_connection_goes_on(bundle, path):
    size = 500_000
    form = "content-type: multipart/form-data; boundary=x"
    head = f"POST {path} HTTP/1.1\r\nhost: a\r\n{form}\r\ncontent-length: {size}\r\n\r\n".encode()
    with (
        serving(app_of(bundle, max_queue_rows=1)) as server,
        socket.create_connection(("127.0.0.1", server.port)) as client,
    ):
        client.settimeout(20)
        (deployment,) = server.app.service.models
        deployment.batcher.room.admit(1, 0, now_s=0.0, deadline_s=math.inf)
        client.sendall(head + b"x" * 100_000)
        refused = received_until(client, b"beside 1 of 0.")
        deployment.batcher.room.leave(1, 0)
        client.sendall(b"x" * (size - 100_000) + b"GET /health HTTP/1.1\r\nhost: a\r\n\r\n")
        next_one = received_until(client, b'"ready"')

    assert refused.startswith(b"HTTP/1.1 429 ")
    assert b"retry-after: " in refused
    assert next_one.startswith(b"HTTP/1.1 200 ")


def test_many_requests_in_one_piece_that_ends_inside_a_head_are_answered(service):
    number = 2500
    sent = b"GET /v2/health/live HTTP/1.1\r\nhost: a\r\n\r\n" * number
    with connected(service) as client:
        client.sendall(sent[:-9])
        time.sleep(0.2)  # lets the server read
        client.sendall(sent[-9:])
        content = b""
        while content.count(b'{"live":true}') < number and (chunk := client.recv(65536)):
            content += chunk

    assert content.count(b"HTTP/1.1 200 ") == content.count(b'{"live":true}') == number
