"""Requests that the fast path takes, connections to send them on, and what is heard of them."""

import asyncio
import contextlib
import json
import socket
import threading

import numpy as np
import uvicorn
from uvicorn.server import ServerState

from serving.batching import Pace
from serving.gate import Gate
from serving.http_protocol import bounded_http
from serving.keys import Keys
from serving.limits import KeyLimits
from serving.v2.fast_path import FastPath
from tests.serving.bundles import SIDE
from tests.serving.servers import app_of
from tests.serving.transports import Transport

PATH = "/v2/models/colours/infer"
# Changes nothing, but is not known to.
LONG_WAY = ("X-Other", "a")


OPEN = Gate(Keys(None), KeyLimits(None))


class Counting(FastPath):
    """Counts what it takes."""

    def __init__(self, service, gate):
        super().__init__(service, gate)
        self.service, self._taken = service, 0
        # An answer may be at its client before it is counted here.
        self._lock = threading.RLock()

    def take(self, connection, data):
        with self._lock:
            is_taken = super().take(connection, data)
            self._taken += is_taken
        return is_taken

    @property
    def taken(self):
        with self._lock:
            return self._taken


class Unmoved(Pace):
    """Learns from its first batch alone: one that a busy machine holds up would make the model slow."""

    def record(self, rows, seconds, turn_s=None):
        if self.batch_s == 0.0:
            super().record(rows, seconds, turn_s)


def make_quick(app):
    """Let the service believe that its model is quick, however busy this machine is."""
    (deployment,) = app.service.models
    deployment.batcher.room.pace = Unmoved()
    deployment.batcher.room.pace.record(1, 1e-4)


def rows(number, value=0.5):
    return np.full((number, SIDE, SIDE, 3), value, np.float32)


def request(array, *headers, path=PATH, **changes):
    """Head and body of a request of the model's own rows; `changes` of its JSON, or of its only tensor."""
    tensor = {
        "name": "input",
        "datatype": "FP32",
        "shape": array.shape,
        "parameters": {"binary_data_size": array.nbytes},
    }
    said = {"inputs": [tensor], "parameters": {"binary_data_output": True}}
    for key, value in changes.items():
        (tensor if key in ("name", "datatype", "shape") else said)[key] = value
    text = json.dumps(said).encode()
    length = len(text) + array.nbytes
    lines = [("Host", "a"), ("Inference-Header-Content-Length", len(text)), ("Content-Length", length), *headers]
    head = "".join(f"{name}: {value}\r\n" for name, value in lines)
    return f"POST {path} HTTP/1.1\r\n{head}\r\n".encode() + text + array.tobytes()


@contextlib.contextmanager
def connected(server):
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as client:
        yield client


def answers(client, number):
    """Status, headers and body of each answer on a connection."""
    content, found = b"", []
    while len(found) < number:
        head, end, rest = content.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:]) if end else {}
        length = int(headers.get("content-length", 0))
        if end and len(rest) >= length:
            found.append((int(lines[0].split()[1]), headers, rest[:length]))
            content = rest[length:]
            continue
        chunk = client.recv(65536)
        assert chunk, f"expected {number} answers, received {len(found)}"
        content += chunk
    return found


def exchange(server, *requests):
    with connected(server) as client:
        client.sendall(b"".join(requests))
        return answers(client, len(requests))


@contextlib.asynccontextmanager
async def connection(bundle, head_timeout_s=10.0, **settings):
    """A connection to a service whose model is known to be quick, without a socket: what comes, comes in one turn."""
    app = app_of(bundle, **settings)
    await app.service.load()
    path = Counting(app.service, Gate(Keys(settings.get("api_keys_file")), KeyLimits(None)))
    config = uvicorn.Config(app, http=bounded_http(head_timeout_s, path), ws="none", log_config=None)
    config.load()
    protocol = config.http_protocol_class(config=config, server_state=ServerState(), app_state={})
    transport = Transport()
    protocol.connection_made(transport)
    make_quick(app)
    try:
        yield protocol, transport, path
    finally:
        protocol.connection_lost(None)
        app.service.close()


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)  # polls
