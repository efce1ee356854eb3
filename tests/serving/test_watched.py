"""Work in a thread that is given up where it hangs."""

import asyncio
import threading
import weakref

import pytest

from serving.errors import RunTimeoutError
from serving.watched import WatchedThread
from tests.serving.servers import wait_for

LONG_S = 60.0


@pytest.fixture
async def thread():
    made = WatchedThread("worker")
    yield made
    made.close()


@pytest.fixture
def gate():
    """Work waits for it; it opens at the latest when the test ends."""
    made = threading.Event()
    yield made
    made.set()


async def test_work_runs_in_the_named_thread_and_gives_its_result(thread):
    assert await thread.run(lambda: threading.current_thread().name, LONG_S) == "worker"
    assert not thread.is_busy


async def test_an_error_of_the_work_is_the_callers(thread):
    with pytest.raises(ZeroDivisionError):
        await thread.run(lambda: 1 / 0, LONG_S)

    assert await thread.run(lambda: 7, LONG_S) == 7


async def test_what_hangs_is_given_up_and_the_next_work_runs(thread, gate):
    with pytest.raises(RunTimeoutError, match=r"within 0\.05 s"):
        await thread.run(gate.wait, 0.05)

    assert thread.abandoned == 1
    assert await thread.run(lambda: threading.current_thread().name, LONG_S) == "worker"
    gate.set()
    wait_for(lambda: thread.abandoned == 0)


async def test_what_ends_after_it_was_given_up_changes_nothing(thread, gate):
    with pytest.raises(RunTimeoutError):
        await thread.run(gate.wait, 0.01)
    second_gate = threading.Event()
    second = asyncio.create_task(asyncio.to_thread(second_gate.wait))
    running = asyncio.create_task(thread.run(lambda: second_gate.wait() and "second", LONG_S))
    await asyncio.sleep(0)

    gate.set()
    wait_for(lambda: thread.abandoned == 0)
    await asyncio.sleep(0)
    is_busy = thread.is_busy
    second_gate.set()

    assert is_busy
    assert await running == "second"
    await second


async def test_work_whose_caller_is_cancelled_keeps_the_thread_until_it_ends(thread, gate):
    running = asyncio.create_task(thread.run(gate.wait, LONG_S))
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert thread.is_busy
    with pytest.raises(RuntimeError, match="one piece of work at a time"):
        await thread.run(lambda: 0, LONG_S)

    gate.set()
    while thread.is_busy:
        await asyncio.sleep(0.01)  # polls
    assert await thread.run(lambda: 1, LONG_S) == 1


async def test_work_whose_caller_is_cancelled_is_given_up_too(thread, gate):
    running = asyncio.create_task(thread.run(gate.wait, 0.05))
    await asyncio.sleep(0)
    running.cancel()

    while thread.is_busy:
        await asyncio.sleep(0.01)  # polls
    assert thread.abandoned == 1
    assert await thread.run(lambda: 1, LONG_S) == 1


async def test_it_keeps_neither_inputs_nor_answers(thread):
    class Batch:
        pass

    alive = []

    def work() -> Batch:
        batch = Batch()
        alive.append(weakref.ref(batch))
        return batch

    await thread.run(work, LONG_S)
    # The loop holds what the task that it is running waited for.
    await asyncio.sleep(0)

    wait_for(lambda: alive[0]() is None)
