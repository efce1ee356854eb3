"""The fast path answers as the long way does, whatever is sent, and however it is cut into pieces."""

import asyncio
import contextlib
import gzip
import itertools
import json
import math
import re
import socket
import time
from datetime import UTC, datetime

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.app import create_app
from serving.batching import Pace
from serving.keys_command import create_key
from serving.settings import ServingSettings
from serving.v2.fast_path import FastPath
from serving.v2.plain_heads import Heads
from tests.serving.bundles import RED, SIDE, make_bundle
from tests.serving.servers import app_of, serving
from tests.serving.v2.fast_requests import (
    LONG_WAY,
    OPEN,
    PATH,
    Counting,
    answers,
    connected,
    connection,
    exchange,
    make_quick,
    request,
    rows,
    until,
)
from tfpipe.core.routing_changes import Origin, split

KEEP_ALIVE_S = 1
# An answer with it is worth compressing.
LONG_ID = "long" * 400
TIMED = {"binary_data_output": True, "timeout": 1}


@pytest.fixture(scope="module")
def server(bundle):
    app = app_of(bundle, max_batch_size=4)
    app.fast_path = Counting(app.service, OPEN)
    with serving(app, timeout_keep_alive=KEEP_ALIVE_S) as running:
        make_quick(app)
        exchange(running, request(rows(1)))
        assert app.fast_path.taken == 1
        yield running


# Decoded in a thread, so that others come meanwhile.
IMAGE = b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\nContent-Length: %d\r\n\r\n" % len(RED) + RED
HEALTH = b"GET /v2/health/live HTTP/1.1\r\nHost: a\r\n\r\n"


parameters = st.fixed_dictionaries({}, optional={"binary_data": st.booleans(), "classification": st.integers(0, 3)})
names = st.sampled_from(["probabilities", "label", "score", "features", "other"])
outputs = st.lists(st.fixed_dictionaries({"name": names}, optional={"parameters": parameters}), max_size=3)
changes = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["input", "pixels", "image"]),
        "datatype": st.sampled_from(["FP32", "FP64", "UINT8"]),
        "shape": st.sampled_from([[1, SIDE, SIDE, 3], [2, SIDE, SIDE, 3], [0, SIDE, SIDE, 3], [SIDE, SIDE, 3], [-1]]),
        "id": st.one_of(st.text(max_size=5), st.just(LONG_ID)),
        "outputs": outputs,
        "parameters": st.sampled_from([{}, {"binary_data_output": False}, TIMED, {**TIMED, "timeout": 10**7}]),
    },
)
values = st.sampled_from([0.0, 0.5, -1e30, 1e38, math.nan, math.inf])
# Of clients in Python, and of what stands before the service.
_SENT = [
    ("Accept-Encoding", "gzip, deflate, br"),
    ("Accept-Encoding", "deflate;q=0.5"),
    ("Accept-Encoding", "gzip;q=0, br"),
    ("X-Request-ID", "mine"),
    ("X-Request-ID", "two words"),
    ("X-Request-ID", ""),
    ("X-Forwarded-For", "10.0.0.1, 10.0.0.2"),
    ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ("X-Timeout-Ms", "100000"),
    ("Expect", "no"),
]
sent_headers = st.lists(st.sampled_from(_SENT), max_size=3, unique_by=lambda one: one[0])
_SETTINGS = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture]}


@settings(max_examples=300, **_SETTINGS)
@given(number=st.integers(0, 6), value=values, changes=changes, sent=sent_headers)
def test_both_ways_give_the_same_answer(server, number, value, changes, sent):
    array = rows(number, value)

    make_quick(server.app)
    ((status, headers, body),) = exchange(server, request(array, *sent, **changes))
    ((other_status, other_headers, other_body),) = exchange(server, request(array, *sent, LONG_WAY, **changes))

    assert (status, body) == (other_status, other_body)
    assert headers.keys() == other_headers.keys()
    same = headers.keys() - {"date", "x-request-id", "server-timing"}
    if ("X-Request-ID", "mine") in sent:
        assert headers["x-request-id"] == other_headers["x-request-id"] == "mine"
    assert {name: headers[name] for name in same} == {name: other_headers[name] for name in same}
    stages = [
        [part.split(";")[0] for part in one.get("server-timing", "").split(", ")] for one in (headers, other_headers)
    ]
    assert stages[0] == stages[1]


def test_plain_requests_go_the_fast_way_and_others_do_not(server):
    path = server.app.fast_path
    before = path.taken
    make_quick(server.app)
    exchange(server, request(rows(1), LONG_WAY))
    exchange(server, request(rows(1), ("X-Request-ID", "two words")))
    exchange(server, request(rows(1), path=f"{PATH}?a=b"))
    exchange(server, HEALTH)
    assert path.taken == before

    make_quick(server.app)
    exchange(server, request(rows(1), ("Connection", "keep-alive")))
    # As requests and httpx send them, and as they come through a proxy.
    exchange(server, request(rows(1), ("Accept", "*/*"), ("Accept-Encoding", "gzip, deflate")))
    exchange(server, request(rows(1), ("X-Request-ID", "mine"), ("X-Forwarded-For", "10.0.0.1")))
    assert path.taken == before + 3


def test_heads_with_ids_of_their_own_do_not_crowd_out_those_that_come_again():
    heads = Heads(max_body_bytes=10_000)
    kept = heads.read(request(rows(1)))
    for number in range(1000):
        assert heads.read(request(rows(1), ("X-Request-ID", str(number)))).id == str(number)

    assert heads.read(request(rows(1))) is kept


def test_a_long_answer_is_compressed_for_those_who_accept_it(server):
    before = server.app.fast_path.taken
    make_quick(server.app)
    ((_, headers, body),) = exchange(server, request(rows(1), ("Accept-Encoding", "gzip"), id=LONG_ID))

    assert server.app.fast_path.taken == before + 1
    assert (headers["content-encoding"], headers["vary"]) == ("gzip", "accept-encoding")
    assert LONG_ID.encode() in gzip.decompress(body)


def test_a_name_of_the_client_comes_back(server):
    ((_, _, body),) = exchange(server, request(rows(1), id="seven"))

    assert json.loads(body[: body.rindex(b"}") + 1])["id"] == "seven"


kinds = st.sampled_from(["plain", "long", "health", "refused"])


@settings(max_examples=100, **_SETTINGS)
@given(kinds=st.lists(kinds, min_size=1, max_size=6), cuts=st.lists(st.integers(0, 4000), max_size=6))
def test_requests_in_any_pieces_are_answered_in_their_order(server, kinds, cuts):
    sent = b"".join(
        HEALTH if kind == "health"
        else request(rows(1), *([LONG_WAY] if kind == "long" else []), id=str(place),
                     **({"name": "other"} if kind == "refused" else {}))
        for place, kind in enumerate(kinds)
    )  # fmt: skip
    make_quick(server.app)
    with connected(server) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        places = [0, *sorted(cuts), len(sent)]
        for start, end in itertools.pairwise(places):
            client.sendall(sent[start:end])
            time.sleep(0.001)  # lets the server read
        received = answers(client, len(kinds))

    expected = {"plain": 200, "long": 200, "health": 200, "refused": 400}
    assert [status for status, _, _ in received] == [expected[kind] for kind in kinds]
    for place, (kind, (_, _, body)) in enumerate(zip(kinds, received, strict=True)):
        if kind in ("plain", "long"):
            assert f'"id":"{place}"'.encode() in body


def test_many_at_once_each_get_their_own_answer(server):
    values = np.linspace(0.0, 1.0, 40)
    with contextlib.ExitStack() as open_:
        clients = [open_.enter_context(connected(server)) for _ in values]
        for _ in range(5):
            for client, value in zip(clients, values, strict=True):
                client.sendall(request(rows(1, value), id=str(value)))
            received = [answers(client, 1)[0] for client in clients]

    expected = [exchange(server, request(rows(1, value), LONG_WAY, id=str(value)))[0] for value in values]
    for (status, headers, body), (_, _, other) in zip(received, expected, strict=True):
        assert status == 200
        length = int(headers["inference-header-content-length"])
        assert body[:length] == other[:length]
        # float32 rounding differs with the rows beside it.
        probabilities = [np.frombuffer(one[length:][:12], "<f4") for one in (body, other)]
        np.testing.assert_allclose(*probabilities, atol=1e-5)


def test_a_client_that_does_not_read_is_waited_for(server):
    number = 20_000
    sent = request(rows(1)) * 50
    with connected(server) as client:
        client.setblocking(False)
        left = b""
        # Until nothing more is taken from it.
        deadline_s = time.monotonic() + 20
        count = 0
        while count < number // 50 and time.monotonic() < deadline_s:
            try:
                left = left or sent
                left = left[client.send(left) :]
                count += not left
            except BlockingIOError:
                break
        client.settimeout(30)
        received = answers(client, count * 50)

    assert {status for status, _, _ in received} == {200}


def test_every_request_is_counted_once(server):
    before = counted(server)
    number = 25
    for _ in range(number):
        exchange(server, request(rows(2)))

    after = counted(server)
    assert [new - old for new, old in zip(after, before, strict=True)] == [number, number, number, 2 * number]


def counted(server):
    lines = server.client.get("/metrics").text.splitlines()
    names = (
        'tfpipe_requests_total{code="200",model="colours",protocol="v2",version="3"}',
        'tfpipe_routed_total{arm="champion",model="colours",version="3"}',
        'tfpipe_latency_seconds_count{model="colours",stage="total",version="3"}',
        "tfpipe_batch_rows_sum",
    )
    return [float(line.rpartition(" ")[2]) for name in names for line in lines if line.startswith(f"{name} ")]


def test_a_connection_is_kept_while_it_is_used_and_closed_after(server):
    with connected(server) as client:
        for _ in range(4):
            client.sendall(request(rows(1)))
            answers(client, 1)
            time.sleep(0.4 * KEEP_ALIVE_S)  # less than it is kept
        client.sendall(request(rows(1)))
        answers(client, 1)
        began_s = time.monotonic()
        assert client.recv(1) == b""

    assert 0.5 * KEEP_ALIVE_S < time.monotonic() - began_s < 10 * KEEP_ALIVE_S


def test_a_service_that_drains_refuses_on_connections_that_it_has(bundle):
    app = app_of(bundle)
    with serving(app) as running, connected(running) as client:
        client.sendall(request(rows(1)) * 3)
        assert [status for status, _, _ in answers(client, 3)] == [200] * 3
        app.service.status = "draining"
        client.sendall(request(rows(1)))
        ((status, _, _),) = answers(client, 1)
        app.service.status = "ready"

    assert status == 503


def test_where_every_request_is_logged_there_is_no_fast_path(bundle):
    assert app_of(bundle, log_level="debug").fast_path is None
    assert isinstance(app_of(bundle).fast_path, FastPath)


def test_keys_and_their_limits_hold_on_both_ways(bundle, tmp_path):
    file = tmp_path / "keys.json"
    key = create_key(file, {"name": "reader", "scopes": ["predict"], "rate_limit": 10})
    with serving(app_of(bundle, api_keys_file=file)) as running:
        header = ("Authorization", f"Bearer {key}")
        by_rate = [exchange(running, request(rows(1), header))[0][0] for _ in range(100)]
        time.sleep(0.5)  # brings tokens back
        wrong = ("Authorization", f"Bearer {key[:-1]}{'a' if key[-1] != 'a' else 'b'}")
        others = [exchange(running, request(rows(1), *some))[0][0] for some in ([wrong], [], [header])]

    assert set(by_rate) == {200, 429}
    assert 10 <= by_rate.count(200) < 100
    assert others == [401, 401, 200]


def test_what_only_looks_like_a_request_is_part_of_a_head(server):
    make_quick(server.app)
    with connected(server) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(HEALTH[:-2] + b"X-A: ")
        time.sleep(0.1)  # lets the server read
        client.sendall(request(rows(1)))
        ((status, _, body),) = answers(client, 1)

    assert (status, body) == (200, b'{"live":true}')


def test_what_only_looks_like_a_request_is_a_body(server):
    inner = request(rows(1))
    head = f"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\nContent-Length: {len(inner)}\r\n\r\n"
    with connected(server) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(head.encode())
        time.sleep(0.1)  # lets the server read
        client.sendall(inner)
        ((status, _, body),) = answers(client, 1)

    assert (status, json.loads(body)["error"]["code"]) == (400, "undecodable_image")


def test_features_are_given_on_both_ways(tmp_path):
    wanted = [{"name": "features", "parameters": {"binary_data": True}}]
    app = app_of(make_bundle(tmp_path / "features", features=True))
    app.fast_path = Counting(app.service, OPEN)
    with serving(app) as running:
        make_quick(app)
        both = [exchange(running, request(rows(1), *some, outputs=wanted))[0] for some in ([], [LONG_WAY])]

    assert [status for status, _, _ in both] == [200, 200]
    assert both[0][2] == both[1][2]


@pytest.mark.parametrize("kinds", itertools.product(["fast", "long", "image"], repeat=3))
async def test_what_comes_in_one_turn_is_answered_in_its_order(bundle, kinds):
    async with connection(bundle) as (protocol, transport, path):
        for place, kind in enumerate(kinds):
            some = [LONG_WAY] if kind == "long" else []
            protocol.data_received(IMAGE if kind == "image" else request(rows(1), *some, id=f"n{place}"))
        await until(lambda: len(heard(transport)) == len(kinds))

    assert heard(transport) == [
        b'"latency_ms"' if kind == "image" else f"n{place}".encode() for place, kind in enumerate(kinds)
    ]
    assert path.taken >= (kinds[0] == "fast")


def heard(transport):
    assert transport.written.count(b"HTTP/1.1 ") == transport.written.count(b"HTTP/1.1 200 OK")
    return re.findall(rb'"latency_ms"|(?<="id":")n\d', transport.written)


async def test_a_head_that_is_answered_is_not_late(bundle):
    async with connection(bundle, head_timeout_s=0.2) as (protocol, transport, path):
        protocol.data_received(request(rows(1)))
        await until(lambda: transport.written)
        await asyncio.sleep(0.4)  # twice as long as a head may take

        assert path.taken == 1
        assert not transport.is_closed


async def test_a_connection_that_is_asked_again_at_the_last_moment_is_not_idle(bundle):
    async with connection(bundle) as (protocol, transport, path):
        protocol.data_received(request(rows(1)))
        # Its timer may come between a request and the end of the turn.
        protocol.timeout_keep_alive_handler()
        assert not transport.is_closed
        await until(lambda: transport.written)

    assert path.taken == 1


async def test_a_client_that_does_not_read_goes_the_long_way(bundle):
    async with connection(bundle) as (protocol, transport, path):
        protocol.pause_writing()
        protocol.data_received(request(rows(1)))
        await asyncio.sleep(0.1)  # nothing may be written
        assert (path.taken, transport.written) == (0, b"")

        protocol.resume_writing()
        await until(lambda: transport.written)


async def test_a_connection_that_is_shut_down_has_its_answer_first(bundle):
    async with connection(bundle) as (protocol, transport, path):
        protocol.data_received(request(rows(1)))
        protocol.shutdown()
        assert not transport.is_closed
        await until(lambda: transport.is_closed)

        assert path.taken == 1
        assert transport.written.startswith(b"HTTP/1.1 200 OK")


async def test_a_drain_that_begins_in_the_same_turn_is_kept(bundle):
    async with connection(bundle) as (protocol, transport, path):
        protocol.data_received(request(rows(1)))
        path.service.status = "draining"
        await until(lambda: transport.written)

        assert path.taken == 1
        assert transport.written.startswith(b"HTTP/1.1 503 ")


async def test_a_key_may_ask_so_many_at_once_and_no_more(bundle, tmp_path):
    file = tmp_path / "keys.json"
    key = create_key(file, {"name": "reader", "scopes": ["predict"], "concurrency": 1})
    async with connection(bundle, api_keys_file=file) as (protocol, transport, path):
        for number in range(1, 4):
            protocol.data_received(request(rows(1), ("X-API-Key", key)))
            await until(lambda number=number: transport.written.count(b"HTTP/1.1 200 OK") == number)

    assert path.taken == 3


def test_a_client_that_hangs_up_at_once_disturbs_nobody(server):
    for _ in range(30):
        with connected(server) as client:
            client.sendall(request(rows(1)))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    assert httpx.get(f"http://127.0.0.1:{server.port}/v2/health/live").status_code == 200
    assert exchange(server, request(rows(1)))[0][0] == 200


def test_shares_are_kept_where_only_one_version_is_quick(tmp_path):
    """What the fast path gives up must not be drawn for again."""
    folders = [make_bundle(tmp_path / version, version=version) for version in "12"]
    app = create_app(ServingSettings(model=",".join(map(str, folders)), isolation="inline", threads=1))
    with serving(app) as running:
        models = app.service.models
        for deployment, seconds in zip(models, (1e-4, 1e4), strict=True):
            deployment.batcher.room.pace = Pace()
            deployment.batcher.room.pace.record(1, seconds)
        by = Origin("test", datetime.now(UTC), "")
        models.route(split(models.routing("colours"), {"1": 0.5, "2": 0.5}, by))
        versions = []
        with connected(running) as client:
            for _ in range(200):
                client.sendall(request(rows(1)))
                versions += [headers["x-model-version"] for _, headers, _ in answers(client, 1)]

    # Of 200 draws, by chance outside of it once in 100,000 times.
    assert 68 < versions.count("1") < 132
