"""The asyncio shell around the policy of `serving.batching`: blocks in, results out, one model version."""

import asyncio
import time
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import partial
from typing import Generic, Protocol, TypeVar

from serving.batching import Batch, BatchQueue, Block, Limits, Reason, Room
from serving.errors import DeadlineError, NotReadyError
from serving.slots import Slots

Content = TypeVar("Content")
Result = TypeVar("Result")
Run = Callable[[Sequence[Content]], Sequence[Result]]
_Timed = tuple[Sequence[Result], float]
_Future = asyncio.Future[_Timed[Result]] | Future[_Timed[Result]]

# A batch that takes less costs less than the hop to a thread and back.
_QUICK_S = 0.0005
# Of a model of which fewer are so quick, batches are better left to form.
_QUICK_ROWS = 8
# Nor may some take so long, whatever is usual, that the average is as much: all requests would wait for each.
_QUICK_AVERAGE_S = 0.005
# A batch that takes so many times what batches take, and longer than the least, gives its slot back early: other models
# must go on where it hangs.
_OVERDUE_TIMES, _OVERDUE_LEAST_S = 2.0, 0.5


@dataclass(slots=True)
class Done(Generic[Result]):
    """What came of a block.

    Attributes:
        result: Of the session.
        queue_s: Seconds that it waited.
        run_s: Seconds of its batch.
    """

    result: Result
    queue_s: float
    run_s: float


class Observer(Protocol):
    """Who is told of batches."""

    def batch(self, rows: int, reason: Reason) -> None:
        """One begins to run."""


class Batcher(Generic[Content, Result]):
    """Runs blocks in batches on the sessions of one model version; used on the event loop alone.

    Attributes:
        room: Admission.
        queue: What waits.
        used_s: See `serving.slots`.

    Args:
        runs: One function a session: the contents of a batch -> a result for each.
        limits: Of batches and of what waits.
        slots: Shared with other models.
        executor: Where batches run that are not quick.
        observer: Told of every batch.
        has_cores: Whether there is more than one core.
        may_run_here: Whether quick batches may run in the event loop's thread: no session of a child process does.
        clock: Seconds that only go forward.
    """

    def __init__(
        self,
        runs: Sequence[Run[Content, Result]],
        limits: Limits,
        *,
        slots: Slots,
        executor: Executor,
        observer: Observer,
        has_cores: bool = True,
        may_run_here: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.room = Room(limits)
        self.queue: BatchQueue[Content] = BatchQueue(limits.max_batch_size, limits.max_delay_s)
        self.used_s = 0.0
        self._free = list(runs)
        self._ended_s = float("-inf")
        self._slots, self._executor, self._observer, self._clock = slots, executor, observer, clock
        self._has_cores, self._may_run_here = has_cores, may_run_here
        self._is_scheduled = False
        self._window: asyncio.TimerHandle | None = None
        self._running: set[asyncio.Future[_Timed[Result]]] = set()
        self._lent: set[Hashable] = set()
        self._is_closed = False

    async def run(self, content: Content, *, rows: int, bucket: Hashable, deadline_s: float) -> Done[Result]:
        """Run a block with whatever waits beside it.

        Raises:
            DeadlineError: The deadline passed before it was run.
            NotReadyError: The version is being unloaded.
            Exception: What the session raised for its batch.
        """
        if self._is_closed:
            raise NotReadyError("model: expected it to take requests, but it is unloaded.", status="unloaded")
        loop = asyncio.get_running_loop()
        block = Block(content, rows, bucket, self._clock(), deadline_s, loop.create_future())
        self.queue.put(block)
        # Not at once: what else arrived in this turn of the loop joins it.
        self._schedule()
        try:
            done: Done[Result] = await block.waiter
        except asyncio.CancelledError:
            # The client hung up, or its time is over: what runs already is not stopped.
            self.queue.discard(block)
            raise
        return done

    @property
    def is_quick(self) -> bool:
        """Whether blocks can run at once, in less time than the way to a thread takes, and keep nobody waiting."""
        pace = self.room.pace
        return (
            self._may_run_at_once(min(pace.usual_batch_s, pace.usual_row_s * _QUICK_ROWS))
            and bool(self._free)
            and not self.queue.rows
            and not self._is_closed
            and self._slots.is_free
        )

    @property
    def quick_rows(self) -> int:
        """Rows of a batch that is quick, where `is_quick`."""
        return max(min(self.room.limits.max_batch_size, int(_QUICK_S / self.room.pace.usual_row_s)), 1)

    def run_now(self, contents: Sequence[Content], *, rows: int) -> Sequence[Result] | None:
        """Run a batch at once; None where it is not quick.

        Raises:
            Exception: What the session raised.
        """
        if not self.is_quick or not self._slots.take(self, self._schedule):
            return None
        run = self._free.pop()
        self._observer.batch(rows, "full" if rows >= self.room.limits.max_batch_size else "free")
        started_s = self._clock()
        try:
            results, run_s = _timed(run, contents)
            self.room.pace.record(rows, run_s)
            return results
        finally:
            self._free.append(run)
            self._slots.give_back(self, self._clock() - started_s)

    async def close(self) -> None:
        """Take no more blocks, and wait for those that are here."""
        self._is_closed = True
        while waiting := [*(block.waiter for block in self.queue.blocks()), *self._running]:
            await asyncio.wait(waiting)
        self._slots.leave(self)

    def _dispatch(self) -> None:
        """Start as many batches as there are sessions and slots free."""
        self._is_scheduled = False
        now_s = self._clock()
        for block in self.queue.drop_late(now_s, self.room.pace.least_s(self.queue.rows)):
            late = DeadlineError("deadline: expected a session to be free in time, there was none.")
            _settle(block.waiter, late)
        while self._free and self.queue.is_due(now_s):
            if not self._slots.take(self, self._schedule):
                return
            batch = self.queue.next_batch(now_s)
            if batch is None:
                raise RuntimeError("expected a batch where one is due.")
            self._start(self._free.pop(), batch)
            now_s = self._clock()
        self._wait_for_window()

    def _may_run_at_once(self, usual_s: float) -> bool:
        return self._may_run_here and 0.0 < usual_s < _QUICK_S and self.room.pace.batch_s < _QUICK_AVERAGE_S

    def _start(self, run: Run[Content, Result], batch: Batch[Content]) -> None:
        self._observer.batch(batch.rows, batch.reason)
        started_s = self._clock()
        contents = [block.content for block in batch.blocks]
        end = partial(self._end, run, batch, started_s)
        if self._may_run_at_once(self.room.pace.usual_batch_s):
            end(_run_here(run, contents))
            return
        future = asyncio.wrap_future(self._executor.submit(_timed, run, contents))
        self._running.add(future)
        future.add_done_callback(self._running.discard)
        overdue_s = max(_OVERDUE_TIMES * self.room.pace.batch_s, _OVERDUE_LEAST_S)
        overdue = asyncio.get_running_loop().call_later(overdue_s, self._lend, future, overdue_s)
        future.add_done_callback(lambda _: overdue.cancel())
        future.add_done_callback(end)

    def _end(
        self,
        run: Run[Content, Result],
        batch: Batch[Content],
        started_s: float,
        future: "_Future[Result]",
    ) -> None:
        error = asyncio.CancelledError() if future.cancelled() else future.exception()
        now_s = self._clock()
        # Since its rows were there and the batch before it was over: what kept it from beginning then will keep others.
        ready_s = started_s if batch.reason == "window" else max(block.arrived_s for block in batch.blocks)
        turn_s, self._ended_s = now_s - max(ready_s, self._ended_s), now_s
        if error is None:
            self.room.pace.record(batch.rows, future.result()[1], turn_s)
        if self._has_cores:
            # The model need not stand still while its answers are made; on an only core they would interrupt it.
            self._go_on(run, future, now_s - started_s)
            _answer(batch, started_s, future, error)
        else:
            _answer(batch, started_s, future, error)
            self._go_on(run, future, now_s - started_s)

    def _go_on(self, run: Run[Content, Result], future: "_Future[Result]", seconds: float) -> None:
        self._free.append(run)
        if future in self._lent:
            self._lent.discard(future)
        else:
            self._slots.give_back(self, seconds)
        if self.queue.rows:
            self._schedule()

    def _lend(self, future: "asyncio.Future[_Timed[Result]]", seconds: float) -> None:
        self._lent.add(future)
        self._slots.give_back(self, seconds)

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._dispatch)

    def _wait_for_window(self) -> None:
        if self._window is not None:
            self._window.cancel()
            self._window = None
        due_s = self.queue.due_s()
        # Without a free session, the end of the one that runs is what comes next.
        if due_s is not None and self._free:
            wait_s = max(due_s - self._clock(), 0.0)
            self._window = asyncio.get_running_loop().call_later(wait_s, self._dispatch)


def _timed(run: Run[Content, Result], contents: Sequence[Content]) -> "_Timed[Result]":
    # Here, so that the way into the thread and back is not in it.
    started_s = time.perf_counter()
    results = run(contents)
    return results, time.perf_counter() - started_s


def _run_here(run: Run[Content, Result], contents: Sequence[Content]) -> "Future[_Timed[Result]]":
    future: Future[_Timed[Result]] = Future()
    try:
        future.set_result(_timed(run, contents))
    # As an executor does: whoever waits for the blocks gets it.
    except Exception as error:
        future.set_exception(error)
    return future


def _answer(batch: Batch[Content], started_s: float, future: "_Future[Result]", error: BaseException | None) -> None:
    if error is not None:
        for block in batch.blocks:
            _settle(block.waiter, error)
        return
    results, run_s = future.result()
    for block, result in zip(batch.blocks, results, strict=True):
        _settle(block.waiter, Done(result, started_s - block.arrived_s, run_s))


def _settle(waiter: "asyncio.Future[object]", outcome: object) -> None:
    if waiter.done():
        return
    if isinstance(outcome, BaseException):
        waiter.set_exception(outcome)
    else:
        waiter.set_result(outcome)
