"""What our own HTTP server tells of the client of a request, beside ASGI."""

import asyncio

import pytest
import uvicorn
from uvicorn.server import ServerState

from serving.http_protocol import bounded_http, client_of
from tests.serving.transports import Transport

LARGE = b"a" * 100_000


class App:
    """Reads the body, waits for its client to go, or answers; as ASGI."""

    def __init__(self, answer):
        self.answer, self.client, self.calls, self.pieces = answer, None, 0, []

    async def __call__(self, scope, receive, send):
        more = True
        while more:
            message = await receive()
            self.pieces.append(message["body"])
            more = message["more_body"]
        self.client = client_of(scope)
        self.client.when_gone(self.count)
        if self.answer:
            self.client.forget()
            self.client.write(200, [(b"content-length", b"2")], b"ok")

    def count(self):
        self.calls += 1


async def connected(app):
    config = uvicorn.Config(app, http=bounded_http(10.0), ws="none", log_config=None, lifespan="off")
    config.load()
    connection, transport = config.http_protocol_class(config, ServerState(), {}), Transport()
    connection.connection_made(transport)
    return connection, transport


async def send(connection, body):
    connection.data_received(f"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n".encode())
    await asyncio.sleep(0.01)
    connection.data_received(body)
    await asyncio.sleep(0.01)


@pytest.mark.parametrize("body", [b"a", LARGE], ids=["small", "large"])
async def test_who_closes_the_connection_before_the_answer_is_told_of_once(body):
    app = App(answer=False)
    connection, transport = await connected(app)

    await send(connection, body)
    # Of a large piece it was paused; whoever does not read does not see that a client is gone.
    assert transport.is_reading
    assert not app.calls
    connection.connection_lost(None)

    assert app.calls == 1


async def test_nothing_is_told_of_who_closes_after_the_answer():
    app = App(answer=True)
    connection, transport = await connected(app)

    await send(connection, b"a")
    connection.connection_lost(None)

    assert transport.written.endswith(b"ok")
    assert not app.calls


async def test_a_body_is_handed_on_as_it_came():
    app = App(answer=True)
    connection, _ = await connected(app)
    pieces = [LARGE, b"b" * 10, b"c" * 10]

    connection.data_received(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100020\r\n\r\n")
    connection.on_body(pieces[0])
    await asyncio.sleep(0.01)
    # Two before anybody asks.
    connection.on_body(pieces[1])
    connection.on_body(pieces[2])
    connection.on_message_complete()
    await asyncio.sleep(0.01)

    assert app.pieces == [LARGE, pieces[1] + pieces[2]]
    assert app.pieces[0] is LARGE


async def test_what_comes_of_a_body_after_the_answer_is_left():
    app = App(answer=True)
    connection, transport = await connected(app)

    await send(connection, b"a")
    connection.on_body(LARGE)

    assert not connection.cycle.body
    assert transport.written.endswith(b"ok")


def test_another_server_tells_nothing():
    assert client_of({"type": "http"}) is None
    assert client_of({"type": "http", "extensions": {}}) is None
