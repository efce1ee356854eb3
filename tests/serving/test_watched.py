"""Work in threads that are given up where they hang."""

import asyncio
import threading
import time
import weakref

import pytest

from serving.errors import RunTimeoutError
from serving.watched import WatchedThreads
from tests.serving.servers import wait_for

SHORT_S, LONG_S = 0.05, 60.0


@pytest.fixture
def gate():
    """Work waits for it; it opens at the latest when the test ends."""
    made = threading.Event()
    yield made
    made.set()


def thread_name() -> str:
    return threading.current_thread().name


async def test_work_gives_its_result_or_its_error():
    threads = WatchedThreads("worker", timeout_s=LONG_S)

    assert await asyncio.wrap_future(threads.submit(thread_name)) == "worker"
    assert await asyncio.wrap_future(threads.submit(divmod, 7, 2)) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await asyncio.wrap_future(threads.submit(lambda: 1 / 0))


async def test_a_thread_is_used_again():
    threads = WatchedThreads("worker", timeout_s=None)

    used = {await asyncio.wrap_future(threads.submit(threading.get_ident)) for _ in range(5)}

    assert len(used) == 1


async def test_work_does_not_wait_for_other_work(gate):
    threads = WatchedThreads("worker", timeout_s=LONG_S)
    waiting = [threads.submit(gate.wait) for _ in range(3)]

    assert await asyncio.wrap_future(threads.submit(thread_name)) == "worker"

    gate.set()
    assert [await asyncio.wrap_future(one) for one in waiting] == [True] * 3


async def test_what_hangs_is_given_up_and_other_work_goes_on(gate):
    threads = WatchedThreads("worker", timeout_s=SHORT_S)

    with pytest.raises(RunTimeoutError, match=r"within 0\.05 s"):
        await asyncio.wrap_future(threads.submit(gate.wait))

    assert threads.abandoned == 1
    assert await asyncio.wrap_future(threads.submit(thread_name)) == "worker"
    gate.set()
    wait_for(lambda: threads.abandoned == 0)
    assert await asyncio.wrap_future(threads.submit(thread_name)) == "worker"


async def test_work_that_begins_while_other_work_is_watched_has_all_its_time(gate):
    threads = WatchedThreads("worker", timeout_s=0.4)
    first = threads.submit(gate.wait)
    await asyncio.sleep(0.2)  # half of its time

    began_s = time.monotonic()
    second = threads.submit(gate.wait)
    with pytest.raises(RunTimeoutError):
        await asyncio.wrap_future(second)

    assert time.monotonic() - began_s >= 0.4
    assert first.done()
    assert threads.abandoned == 2


async def test_a_thread_that_was_given_up_is_watched_again(gate):
    threads = WatchedThreads("worker", timeout_s=SHORT_S)
    other_gate = threading.Event()
    with pytest.raises(RunTimeoutError):
        await asyncio.wrap_future(threads.submit(gate.wait))
    gate.set()
    wait_for(lambda: not threads.is_busy)

    with pytest.raises(RunTimeoutError):
        await asyncio.wrap_future(threads.submit(other_gate.wait))
    other_gate.set()


async def test_a_busy_thread_ends_with_its_work_after_the_end(gate):
    threads = WatchedThreads("of the end", timeout_s=LONG_S)
    idle = await asyncio.wrap_future(threads.submit(threading.current_thread))

    threads.shutdown()

    wait_for(lambda: not idle.is_alive())
    with pytest.raises(RuntimeError, match="expected no work after the end"):
        threads.submit(thread_name)


async def test_it_keeps_neither_inputs_nor_answers():
    class Batch:
        pass

    threads = WatchedThreads("worker", timeout_s=LONG_S)
    alive = []

    def work() -> Batch:
        batch = Batch()
        alive.append(weakref.ref(batch))
        return batch

    await asyncio.wrap_future(threads.submit(work))
    # The loop holds what the task that it is running waited for.
    await asyncio.sleep(0)

    wait_for(lambda: alive[0]() is None)
