"""Small real servers on a free port of this machine, which answer as a test says while a `with` block lasts."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson
import uvicorn

PATIENCE_S = 30.0


@dataclass
class Asked:
    """What a server was sent.

    Attributes:
        path: With the query.
        headers: Names in small letters.
        body: Content.
    """

    path: str
    headers: dict[str, str]
    body: bytes


@dataclass
class HttpServer:
    """A server that runs.

    Attributes:
        url: On 127.0.0.1.
        asked: Every POST so far.
    """

    url: str
    asked: list[Asked] = field(default_factory=list)


@dataclass
class Answering:
    """How a server answers.

    Attributes:
        documents: Body by path of GET, and of POST where it is no inference.
        answer: POST number, moment -> status, body, seconds to wait before.
        closes: Whether it closes a connection after each answer.
    """

    documents: dict[str, Any] = field(default_factory=dict)
    answer: Callable[[int, float], tuple[int, bytes, float]] = lambda number, second: (200, b"{}", 0.0)
    closes: bool = False


HEALTH = {"status": "ready", "models": [{"name": "digits", "task": "image_classification"}]}


@contextlib.contextmanager
def answering(how: Answering) -> Iterator[HttpServer]:
    """Run one in a thread."""
    running = HttpServer("")
    stalled_until = [0.0]

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        if scope["path"] in how.documents:
            status, content = 200, orjson.dumps(how.documents[scope["path"]])
        elif scope["method"] == "POST":
            path = scope["raw_path"].decode() + (f"?{scope['query_string'].decode()}" if scope["query_string"] else "")
            headers = {name.decode(): value.decode() for name, value in scope["headers"]}
            running.asked.append(Asked(path, headers, body))
            status, content, wait_s = how.answer(len(running.asked), time.monotonic())
            # A pause of the whole server, as of a garbage collection: all that come meanwhile wait for its end.
            stalled_until[0] = max(stalled_until[0], time.monotonic() + wait_s)
            await asyncio.sleep(max(0.0, stalled_until[0] - time.monotonic()))
        else:
            status, content = 404, b'{"error": "no such path"}'
        headers = [(b"content-length", b"%d" % len(content))] + [(b"connection", b"close")] * how.closes
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, ws="none", lifespan="off", log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        deadline_s = time.monotonic() + PATIENCE_S
        while not server.started:
            if time.monotonic() > deadline_s:
                raise TimeoutError(f"expected a server within {PATIENCE_S} s")
            time.sleep(0.01)  # polls
        running.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        yield running
    finally:
        server.should_exit = True
        thread.join(PATIENCE_S)
