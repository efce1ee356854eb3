"""What there is no room for is refused without its body, as the long way refuses it."""

import gc
import itertools
import json
import ssl
import time
import weakref

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.batching import Pace
from serving.keys_command import create_key
from serving.logs import JsonFormatter
from tests.serving.bundles import SIDE
from tests.serving.certificates import make_pair
from tests.serving.servers import app_of, serving
from tests.serving.v2.fast_requests import (
    LONG_WAY,
    OPEN,
    Counting,
    answers,
    connected,
    connection,
    exchange,
    request,
    rows,
    until,
)

MANY = rows(600)
TIMEOUT_MS = 2000


@pytest.fixture(scope="module")
def server(bundle):
    app = app_of(bundle, timeout_ms=TIMEOUT_MS)
    app.fast_path = Counting(app.service, OPEN)
    with serving(app, timeout_keep_alive=1) as running:
        overload(app)
        yield running


def overload(app, rows_before=1000):
    """Let a service believe that much waits, and that its model is slow."""
    (deployment,) = app.service.models
    room = deployment.batcher.room
    room.pace = Pace()
    room.pace.record(1, 1.0)
    room.rows = rows_before


def comparable(answer):
    status, headers, body = answer
    kept = {name: value for name, value in headers.items() if name not in ("x-request-id", "date")}
    # Times differ by what passed meanwhile.
    return status, kept, body.partition(b" ms, but")[0][:40]


def test_it_is_refused_as_on_the_long_way(server):
    before = server.app.fast_path.taken
    fast, long = exchange(server, request(MANY)), exchange(server, request(MANY, LONG_WAY))

    assert server.app.fast_path.taken == before + 1
    assert fast[0][0] == 504
    assert comparable(fast[0]) == comparable(long[0])


def test_a_full_queue_is_told_as_on_the_long_way(bundle):
    app = app_of(bundle, max_queue_rows=4)
    app.fast_path = Counting(app.service, OPEN)
    with serving(app) as running:
        overload(app, rows_before=4)
        fast, long = exchange(running, request(MANY)), exchange(running, request(MANY, LONG_WAY))

    assert app.fast_path.taken == 1
    assert (fast[0][0], int(fast[0][1]["retry-after"])) == (429, 4)
    assert fast[0][1].keys() == long[0][1].keys()
    assert fast[0][2] == long[0][2]


def test_one_that_may_be_refused_for_something_else_goes_the_long_way(server):
    before = server.app.fast_path.taken
    for header in (("X-Request-ID", "two words"), ("X-Timeout-Ms", "5"), ("Expect", "a")):
        exchange(server, request(MANY, header))

    assert server.app.fast_path.taken == before


def test_it_is_refused_under_the_clients_own_id(server):
    before = server.app.fast_path.taken
    ((status, headers, _),) = exchange(server, request(MANY, ("X-Request-ID", "mine"), ("Accept-Encoding", "gzip")))

    assert server.app.fast_path.taken == before + 1
    assert (status, headers["x-request-id"]) == (504, "mine")


def test_json_without_tensors_bytes_is_refused_too(server):
    body = json.dumps({"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a"]}]}).encode()
    head = b"POST /v2/models/colours/infer HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(body)
    before = server.app.fast_path.taken

    assert exchange(server, head + body)[0][0] == 504
    assert server.app.fast_path.taken == before + 1


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    kinds=st.lists(st.sampled_from(["fast", "long", "health"]), min_size=1, max_size=6),
    cuts=st.lists(st.integers(0, 3 * MANY.nbytes), max_size=6),
)
def test_requests_in_any_pieces_are_answered_in_their_order(server, kinds, cuts):
    health = b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n"
    content = {"fast": request(MANY), "long": request(MANY, LONG_WAY), "health": health}
    sent = b"".join(content[kind] for kind in kinds)
    places = sorted({0, len(sent), *(cut for cut in cuts if cut < len(sent))})
    with connected(server) as client:
        for start, end in itertools.pairwise(places):
            client.sendall(sent[start:end])
        received = answers(client, len(kinds))

    assert [status for status, _, _ in received] == [200 if kind == "health" else 504 for kind in kinds]


def test_several_in_one_piece_are_each_refused(server):
    # The first makes the head known.
    assert [status for status, _, _ in exchange(server, request(rows(1)))] == [504]
    assert [status for status, _, _ in exchange(server, *[request(rows(1))] * 3)] == [504] * 3


def test_they_are_refused_inside_tls_too(bundle, tmp_path):
    app = app_of(bundle, timeout_ms=TIMEOUT_MS)
    app.fast_path = Counting(app.service, OPEN)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with serving(app, tls=make_pair(tmp_path)) as running, connected(running) as plain:
        overload(app)
        with context.wrap_socket(plain) as client:
            for _ in range(2):
                client.sendall(request(MANY) * 2)
                assert [status for status, _, _ in answers(client, 2)] == [504] * 2

    assert app.fast_path.taken == 4


async def test_a_version_that_is_left_alone_is_told_as_on_the_long_way(bundle):
    async with connection(bundle, timeout_ms=TIMEOUT_MS) as (protocol, transport, path):
        overload(path)
        (deployment,) = path.service.models
        while not deployment.breaker.is_open:
            deployment.breaker.record(failed=True)
        protocol.data_received(request(rows(1)))
        await until(lambda: transport.written)

    assert path.taken == 0
    assert transport.written.startswith(b"HTTP/1.1 503 ")


def test_a_service_that_ends_at_once_has_logged_it(bundle, caplog):
    app = app_of(bundle, timeout_ms=TIMEOUT_MS)
    with serving(app) as running:
        overload(app)
        ((_, headers, _),) = exchange(running, request(MANY))

    assert headers["x-request-id"] in {line.get("request_id") for line in lines(caplog)}


def test_a_connection_is_kept_after_it(server):
    with connected(server) as client:
        for _ in range(3):
            client.sendall(request(MANY))
            assert answers(client, 1)[0][0] == 504
            time.sleep(0.3)


def test_a_connection_whose_body_never_comes_is_closed(server):
    whole = request(MANY)
    with connected(server) as client:
        client.sendall(whole[: len(whole) // 2])
        assert answers(client, 1)[0][0] == 504
        assert client.recv(1) == b""


def test_a_connection_is_kept_while_the_body_comes(server):
    whole, pieces = request(MANY), 6
    size = len(whole) // pieces + 1
    with connected(server) as client:
        for start in range(0, len(whole), size):
            client.sendall(whole[start : start + size])
            time.sleep(0.4)  # in all more than twice the time that a connection may be idle
        assert answers(client, 1)[0][0] == 504
        client.sendall(whole)
        assert answers(client, 1)[0][0] == 504


async def test_every_refusal_is_logged_with_its_own_time(bundle, caplog):
    async with connection(bundle, timeout_ms=TIMEOUT_MS) as (protocol, transport, path):
        overload(path)
        for _ in range(3):
            protocol.data_received(request(MANY))
        began = time.time()
        await until(lambda: len(refused(caplog, transport)) == 3)

    written = refused(caplog, transport)
    assert {line["message"] for line in written} == {"request failed"}
    assert {(line["status"], line["code"], line["path"]) for line in written} == {
        (504, "deadline_exceeded", "/v2/models/colours/infer")
    }
    assert len({line["request_id"] for line in written}) == 3
    assert all(line["request_id"].encode() in transport.written for line in written)
    assert all(line["time"] <= _iso(began) for line in written)


async def test_what_is_not_logged_yet_is_logged_at_the_end(bundle, caplog):
    async with connection(bundle, timeout_ms=TIMEOUT_MS) as (protocol, transport, path):
        overload(path)
        protocol.data_received(request(MANY))
        assert not refused(caplog, transport)
        path.close()

    assert [line["level"] for line in refused(caplog, transport)] == ["error"]


def refused(caplog, transport):
    """Of what was answered here: the server of other tests may still write lines of its own."""
    return [line for line in lines(caplog) if line.get("request_id", " ").encode() in transport.written]


def lines(caplog):
    """Of the log, as it is written."""
    return [json.loads(line) for record in caplog.records for line in JsonFormatter().format(record).splitlines()]


async def test_a_key_is_refused_as_often_as_it_asks(bundle, tmp_path):
    file = tmp_path / "keys.json"
    key = create_key(file, {"name": "reader", "scopes": ["predict"], "concurrency": 1})
    async with connection(bundle, api_keys_file=file, timeout_ms=TIMEOUT_MS) as (protocol, transport, path):
        overload(path)
        for _ in range(3):
            protocol.data_received(request(MANY, ("X-API-Key", key)))

    assert path.taken == 3
    assert transport.written.count(b"HTTP/1.1 504 ") == 3


def test_refusals_are_counted_as_on_the_long_way(server):
    before = counted(server)
    exchange(server, request(MANY), request(MANY))
    between = counted(server)
    exchange(server, request(MANY, LONG_WAY), request(MANY, LONG_WAY))
    after = counted(server)

    changed = {name: value - before.get(name, 0) for name, value in between.items() if value != before.get(name, 0)}
    assert changed == {
        name: value - between.get(name, 0) for name, value in after.items() if value != between.get(name, 0)
    }
    assert any("tfpipe_errors_total" in name for name in changed)


def counted(server):
    lines = [line.rpartition(" ") for line in server.client.get("/metrics").text.splitlines()]
    names = ("tfpipe_requests_total", "tfpipe_errors_total", "tfpipe_routed_total", "tfpipe_latency_seconds_count")
    return {name: float(value) for name, _, value in lines if name.startswith(names)}


def test_with_room_again_it_is_answered(bundle):
    app = app_of(bundle, timeout_ms=TIMEOUT_MS, max_batch_size=8)
    app.fast_path = Counting(app.service, OPEN)
    with serving(app) as running:
        overload(app)
        assert exchange(running, request(MANY))[0][0] == 504
        (deployment,) = app.service.models
        deployment.batcher.room.rows = 0
        assert exchange(running, request(np.zeros((2, SIDE, SIDE, 3), np.float32)))[0][0] == 200


def _iso(at_s):
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at_s)) + f".{int(at_s % 1 * 1000):03d}+00:00"


def faster(service, deployment):
    deployment.batcher.room.pace = Pace()
    # Not so fast that it would be run at once.
    deployment.batcher.room.pace.record(1, TIMEOUT_MS / 1000 / 2 / deployment.batcher.room.rows)


def with_room(service, deployment):
    deployment.batcher.room.rows = 0


def left_alone(service, deployment):
    while not deployment.breaker.is_open:
        deployment.breaker.record(failed=True)


def draining(service, deployment):
    service.status = "draining"


def unloaded(service, deployment):
    service.models.take(deployment.name, deployment.version)


@pytest.mark.parametrize(
    ("change", "status"), [(faster, 200), (with_room, 200), (left_alone, 503), (draining, 503), (unloaded, 404)]
)
async def test_what_one_was_told_holds_for_the_next_until_something_changes(bundle, change, status):
    async with connection(bundle, timeout_ms=TIMEOUT_MS) as (protocol, transport, path):
        overload(path)
        (deployment,) = path.service.models
        for _ in range(2):
            protocol.data_received(request(rows(1)))
        change(path.service, deployment)
        protocol.data_received(request(rows(1)))
        await until(lambda: transport.written.count(b"HTTP/1.1 ") == 3)

    assert [int(answer[:3]) for answer in transport.written.split(b"HTTP/1.1 ")[1:]] == [504, 504, status]


async def test_what_a_full_queue_was_told_holds_until_bytes_leave(bundle):
    async with connection(bundle, max_queue_bytes=2**20) as (protocol, transport, path):
        overload(path, rows_before=1)
        (deployment,) = path.service.models
        for bytes_before in (2**20 + 1, 2**20 + 1, 0):
            deployment.batcher.room.bytes = bytes_before
            protocol.data_received(request(rows(1)))
        await until(lambda: transport.written.count(b"HTTP/1.1 ") == 3)

    assert [int(answer[:3]) for answer in transport.written.split(b"HTTP/1.1 ")[1:]] == [429, 429, 200]


@pytest.fixture
def uncollected():
    """No circle of objects leaves memory."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize(
    ("headers", "needs_key"), [((), False), ((LONG_WAY,), False), ((), True)], ids=["fast", "long", "stranger"]
)
async def test_a_version_that_was_refused_for_is_not_held_in_memory(bundle, tmp_path, headers, needs_key):
    changes = {"api_keys_file": tmp_path / "keys.json"} if needs_key else {}
    if needs_key:
        create_key(tmp_path / "keys.json", {"name": "reader", "scopes": ["predict"]})
    async with connection(bundle, timeout_ms=TIMEOUT_MS, **changes) as (protocol, transport, path):
        overload(path)
        protocol.data_received(request(rows(1), *headers))
        await until(lambda: transport.written)
        (deployment,) = path.service.models
        path.service.models.take(deployment.name, deployment.version)
        await deployment.close()
        gone = weakref.ref(deployment)
        del deployment
        await until(lambda: gone() is None)
