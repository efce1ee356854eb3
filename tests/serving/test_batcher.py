"""The asyncio shell around the policy: real loops and threads, sessions that are functions."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from serving.batcher import Batcher
from serving.batching import Limits
from serving.errors import DeadlineError, NotReadyError
from serving.slots import Slots
from tests.serving.asking import Batches

FOREVER = float("inf")


class Doubling:
    """A session that doubles numbers, and waits until it may."""

    def __init__(self, *, seconds: float = 0.0) -> None:
        self.may_run = threading.Event()
        self.may_run.set()
        self.seen: list[list[int]] = []
        self._seconds = seconds

    def __call__(self, contents: Sequence[int]) -> list[int]:
        self.seen.append(list(contents))
        self.may_run.wait(10)
        time.sleep(self._seconds)  # a model that takes so long
        return [2 * content for content in contents]


def batcher_of(*runs, slots: Slots | None = None, batches=None, delay_s: float = 0.0, size: int = 4, **options):
    limits = Limits(size, max_rows=1000, max_bytes=10**9, max_delay_s=delay_s)
    observer = Batches() if batches is None else batches
    return Batcher(runs, limits, slots=slots or Slots(len(runs)), executor=POOL, observer=observer, **options)


POOL = ThreadPoolExecutor(4)


def submit(batcher, *contents: int, deadline_s: float = FOREVER):
    return [
        asyncio.ensure_future(batcher.run(content, rows=1, bucket=0, deadline_s=deadline_s)) for content in contents
    ]


async def until(condition) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)  # polls


async def test_a_batch_that_hangs_does_not_keep_other_models_from_running():
    hanging, other, slots = Doubling(), Doubling(), Slots(1)
    hanging.may_run.clear()
    first, second = batcher_of(hanging, slots=slots), batcher_of(other, slots=slots)

    stuck = submit(first, 1)
    await until(lambda: hanging.seen)
    (done,) = await asyncio.gather(*submit(second, 2))
    is_stuck = not stuck[0].done()
    hanging.may_run.set()

    assert (done.result, is_stuck) == (4, True)
    assert (await stuck[0]).result == 2
    # The slot that was given back early is not given back again.
    assert slots.take(first, lambda: None)
    assert not slots.take(second, lambda: None)


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("has_cores", [True, False])
async def test_on_cores_of_its_own_a_model_goes_on_before_its_answers_are_made(has_cores, fails):
    session, batches = Doubling(), Batches()
    session.may_run.clear()

    def run(contents):
        answers = session(contents)
        if fails and contents == [1]:
            raise ValueError
        return answers

    batcher = batcher_of(run, batches=batches, has_cores=has_cores)

    async def answer(content):
        with contextlib.suppress(ValueError):
            await batcher.run(content, rows=1, bucket=0, deadline_s=FOREVER)
        return len(batches)

    first = asyncio.ensure_future(answer(1))
    await until(lambda: session.seen)
    second = asyncio.ensure_future(answer(2))
    await until(lambda: batcher.queue.rows)
    session.may_run.set()

    assert await first == (2 if has_cores else 1)
    assert await second == 2


async def test_what_arrives_while_a_session_is_busy_forms_the_next_batch():
    session = Doubling()
    session.may_run.clear()
    batcher = batcher_of(session)

    first = submit(batcher, 1)
    await until(lambda: session.seen)
    rest = submit(batcher, 2, 3, 4)
    await asyncio.sleep(0.01)  # they join the queue
    session.may_run.set()
    done = await asyncio.gather(*first, *rest)

    assert session.seen == [[1], [2, 3, 4]]
    assert [one.result for one in done] == [2, 4, 6, 8]
    assert done[1].queue_s > 0.005


# Feature: deep-learning-pipeline, Property 14: Batching
@settings(max_examples=100, deadline=None, derandomize=True)
@given(gaps_ms=st.lists(st.integers(0, 3), min_size=1, max_size=8), max_batch_size=st.integers(8, 16))
def test_requests_within_a_window_are_one_batch(gaps_ms, max_batch_size):
    session, batches, arrived_s = Doubling(), Batches(), []
    window_s = 0.1

    async def all_of_them():
        batcher = batcher_of(session, batches=batches, delay_s=window_s, size=max_batch_size)
        waiting = []
        for content, gap_ms in enumerate(gaps_ms):
            await asyncio.sleep(gap_ms / 1000)  # the client's pause
            waiting += submit(batcher, content)
            arrived_s.append(time.monotonic())
        return await asyncio.gather(*waiting)

    done = asyncio.run(all_of_them())

    # On a machine that does something else meanwhile they may not come within the window.
    assume(arrived_s[-1] - arrived_s[0] < window_s / 2)
    assert session.seen == [list(range(len(gaps_ms)))]
    assert batches == [len(gaps_ms)]
    assert [one.result for one in done] == [2 * content for content in range(len(gaps_ms))]


async def test_a_client_that_hangs_up_leaves_the_queue():
    session = Doubling()
    session.may_run.clear()
    batcher = batcher_of(session)
    (first,) = submit(batcher, 1)
    await until(lambda: session.seen)

    gone, kept = submit(batcher, 2, 3)
    await asyncio.sleep(0.01)  # they join the queue
    gone.cancel()
    session.may_run.set()
    await asyncio.gather(first, kept)

    assert session.seen == [[1], [3]]


async def test_a_deadline_that_passed_in_the_queue_is_told_and_nothing_is_run_for_it():
    session = Doubling()
    session.may_run.clear()
    batcher = batcher_of(session)
    (first,) = submit(batcher, 1)
    await until(lambda: session.seen)

    (late,) = submit(batcher, 2, deadline_s=time.monotonic() + 0.01)
    await asyncio.sleep(0.03)  # its deadline passes
    session.may_run.set()

    with pytest.raises(DeadlineError):
        await late
    await first
    assert session.seen == [[1]]


async def test_no_batch_is_run_for_what_would_be_answered_too_late():
    session = Doubling(seconds=0.1)
    batcher = batcher_of(session, size=1)
    await submit(batcher, 1)[0]

    (running,) = submit(batcher, 2)
    (late,) = submit(batcher, 3, deadline_s=time.monotonic() + 0.15)
    (kept,) = submit(batcher, 4)

    with pytest.raises(DeadlineError):
        await late
    await asyncio.gather(running, kept)
    assert session.seen == [[1], [2], [4]]


@pytest.mark.parametrize("sessions", [1, 2])
async def test_sessions_side_by_side_keep_others_waiting_for_less(sessions):
    slots = Slots(sessions)
    # Long beside what a busy machine puts between two batches.
    runs = [Doubling(seconds=0.2) for _ in range(sessions)]
    batcher = batcher_of(*runs, slots=slots, size=1)

    await asyncio.gather(*submit(batcher, *range(6 * sessions)))

    pace = batcher.room.pace
    assert pace.turn_s / pace.batch_s == pytest.approx(1 / sessions, rel=0.3)


async def test_time_in_which_nothing_waited_keeps_nobody_waiting():
    batcher = batcher_of(Doubling(seconds=0.01))
    await submit(batcher, 1)[0]
    await asyncio.sleep(0.5)  # nobody asks
    await submit(batcher, 2)[0]

    assert batcher.room.pace.turn_s < 0.1


async def test_a_window_keeps_only_those_waiting_who_share_it():
    batcher = batcher_of(Doubling(seconds=0.01), delay_s=0.4)
    await submit(batcher, 1)[0]

    assert batcher.room.pace.turn_s < 0.1


async def test_a_model_that_waits_for_another_learns_how_long():
    slots = Slots(1)
    fast, slow = batcher_of(Doubling(seconds=0.01), slots=slots, size=1), batcher_of(Doubling(seconds=0.1), slots=slots)

    await asyncio.gather(*submit(fast, *range(8)), *submit(slow, *range(40)))

    assert fast.room.pace.batch_s < 0.05 < fast.room.pace.turn_s


async def test_what_a_session_raises_is_told_to_its_batch_alone():
    calls = 0

    def run(contents: Sequence[int]) -> list[int]:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise RuntimeError("broken")
        return list(contents)

    batcher = batcher_of(run)
    with pytest.raises(RuntimeError, match="broken"):
        await submit(batcher, 1)[0]

    assert (await submit(batcher, 2)[0]).result == 2


async def test_several_sessions_run_side_by_side():
    one, other = Doubling(), Doubling()
    one.may_run.clear()
    other.may_run.clear()
    batcher = batcher_of(one, other, slots=Slots(2), size=1)

    waiting = submit(batcher, 1, 2)
    await until(lambda: one.seen and other.seen)
    one.may_run.set()
    other.may_run.set()

    assert sorted(done.result for done in await asyncio.gather(*waiting)) == [2, 4]


async def test_a_model_with_a_long_queue_does_not_keep_another_waiting():
    slots, order = Slots(1), []

    def session(name: str):
        def run(contents: Sequence[int]) -> list[int]:
            order.append(name)
            time.sleep(0.002)  # a model that takes so long
            return list(contents)

        return run

    greedy, modest = (batcher_of(session(name), slots=slots, size=1) for name in ("greedy", "modest"))
    waiting = [*submit(greedy, *range(20)), *submit(modest, *range(5))]
    await asyncio.gather(*waiting)

    assert order.index("modest") <= 2
    # Turn by turn, although twenty came first.
    assert order[:12].count("modest") >= 4


async def test_closing_answers_what_waits_and_takes_no_more():
    session = Doubling(seconds=0.01)
    batcher = batcher_of(session, size=1)
    waiting = submit(batcher, 1, 2, 3)
    await asyncio.sleep(0)  # they join the queue

    await batcher.close()

    assert [one.result().result for one in waiting] == [2, 4, 6]
    with pytest.raises(NotReadyError, match="unloaded"):
        await submit(batcher, 4)[0]


async def quick_batcher(run, slots):
    batcher = batcher_of(run, slots=slots)
    assert not batcher.is_quick
    while not batcher.is_quick:
        await asyncio.gather(*submit(batcher, *range(4)))
    return batcher


async def test_what_is_quick_runs_at_once_where_it_keeps_nobody_waiting():
    batches, slots = Batches(), Slots(1)
    run = Doubling()
    batcher = batcher_of(run, slots=slots, batches=batches)
    assert batcher.run_now([1], rows=1) is None  # nobody knows how long it takes
    while not batcher.is_quick:
        await asyncio.gather(*submit(batcher, 1))

    assert batcher.run_now([2, 3], rows=2) == [4, 6]
    assert (batches[-1], run.seen[-1], slots.is_free) == (2, [2, 3], True)
    waiting = submit(batcher, 4)
    await asyncio.sleep(0)
    if batcher.queue.rows:
        assert batcher.run_now([5], rows=1) is None
    await asyncio.gather(*waiting)
    await batcher.close()
    assert batcher.run_now([6], rows=1) is None


async def test_what_is_quick_waits_for_no_slot_and_keeps_none():
    def fail(contents):
        raise RuntimeError("no answer")

    slots = Slots(1)
    quick, other = await quick_batcher(Doubling(), slots), Doubling()
    other.may_run.clear()
    slow = batcher_of(other, slots=slots)
    running = submit(slow, 1)
    await until(lambda: other.seen)

    assert quick.run_now([1], rows=1) is None
    other.may_run.set()
    await asyncio.gather(*running)
    assert quick.run_now([1], rows=1) == [2]
    failing = batcher_of(fail, slots=slots)
    failing.room.pace.record(4, 1e-5)
    with pytest.raises(RuntimeError, match="no answer"):
        failing.run_now([1], rows=1)
    assert slots.is_free
    assert failing.is_quick
    assert [done.result for done in await asyncio.gather(*submit(slow, 2))] == [4]


@pytest.mark.parametrize(("row_s", "expected"), [(1e-6, 4), (2e-4, 2), (4.9e-4, 1)])
def test_a_quick_batch_has_as_many_rows_as_are_quick(row_s, expected):
    batcher = batcher_of(Doubling())
    batcher.room.pace.record(1, row_s)

    assert (batcher.is_quick, batcher.quick_rows) == (True, expected)


def test_a_model_that_is_slow_is_not_quick():
    batcher = batcher_of(Doubling())
    batcher.room.pace.record(1, 6e-4)

    assert not batcher.is_quick


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        # Something else had the core once, or again and again.
        ([1e-4] * 5 + [0.02], True),
        ([1e-4, 0.003] * 5 + [1e-4], True),
        # It is as slow as that now.
        ([1e-4] * 20 + [6e-4] * 5, False),
        # Some are slow because of what they hold, and all would wait for them.
        ([1e-4, 1e-4, 1e-4, 0.2] * 5, False),
        ([0.2] + [1e-4] * 30, True),
    ],
)
async def test_a_model_is_quick_by_what_is_usual(seconds, expected):
    batcher = batcher_of(Doubling())
    for one in seconds:
        batcher.room.pace.record(1, one)

    assert batcher.is_quick == expected
    threads = []
    other = batcher_of(lambda contents: threads.append(threading.get_ident()) or contents)
    other.room.pace = batcher.room.pace
    await asyncio.gather(*submit(other, 1))
    assert (threads == [threading.get_ident()]) == expected
