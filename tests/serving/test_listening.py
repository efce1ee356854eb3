"""How the service takes new connections."""

import asyncio
import contextlib
import socket
from collections import Counter
from pathlib import Path

import uvloop

from serving.__main__ import listen, several
from tests.serving.servers import process, wait_for

CLIENTS = 80


def test_those_who_wait_are_accepted_several_a_turn_of_the_event_loop():
    async def turns():
        accepted = []

        class Accepting(asyncio.Protocol):
            def connection_made(self, transport):
                accepted.append(transport)

        loop = asyncio.get_running_loop()
        with listen("127.0.0.1", 0) as listener, contextlib.ExitStack() as stack:
            for one in several(listener):
                await loop.create_server(Accepting, sock=one)
            for _ in range(CLIENTS):
                stack.enter_context(socket.create_connection(listener.getsockname()))
            turns = 0
            async with asyncio.timeout(20):
                while len(accepted) < CLIENTS:
                    await asyncio.sleep(0)
                    turns += 1
            return turns

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(turns()) <= CLIENTS // 4


def test_the_service_listens_on_as_many(bundle):
    with process("--model", str(bundle)) as started:
        wait_for(started.is_ready)
        copies = Counter(sockets(started.pid))

    with listen("127.0.0.1", 0) as listener, contextlib.ExitStack() as stack:
        expected = [stack.enter_context(one) for one in several(listener)]
    assert max(copies.values()) == len(expected)


def sockets(pid):
    """What each descriptor of a process that is a socket leads to."""
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            link = str(descriptor.readlink())
            if link.startswith("socket:"):
                yield link
