"""Threads for blocking work, each of which is given up where its work takes too long."""

import asyncio
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, Future, InvalidStateError
from typing import Any, TypeVar

from serving.cpus import wait_for_turn
from serving.errors import RunTimeoutError

T = TypeVar("T")


class WatchedThreads(Executor):
    """As many threads as there is work at a time; one whose work hangs is given up.

    Nothing can end a thread inside native code. One that hangs is left alone: it ends with the process, or takes work
    again once its own is over, whose result nobody gets.

    `submit` is called on an event loop.

    Args:
        name: Of the threads, for whoever looks at the process.
        timeout_s: How long work may take; None: for ever.
    """

    def __init__(self, name: str, *, timeout_s: float | None) -> None:
        self._name, self._timeout_s = name, timeout_s
        self._free: deque[_Worker] = deque()
        self._all: list[_Worker] = []
        self._given_up: list[_Worker] = []
        self._look_at: asyncio.TimerHandle | None = None
        self._is_closed = False

    @property
    def is_busy(self) -> bool:
        """Whether a thread is at work, given up or not."""
        return any(worker.is_busy for worker in self._all)

    @property
    def abandoned(self) -> int:
        """Threads that were given up and still hang."""
        self._given_up = [worker for worker in self._given_up if worker.is_busy]
        return len(self._given_up)

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        """Run work in a thread.

        Returns:
            Its result or error; RunTimeoutError where it took too long.
        """
        if self._is_closed:
            raise RuntimeError(f"threads {self._name!r}: expected no work after the end, received some.")
        worker = self._free.pop() if self._free else self._another()
        if worker in self._given_up:
            self._given_up.remove(worker)
        future: Future[T] = Future()
        future.set_running_or_notify_cancel()
        worker.start(future, lambda: fn(*args, **kwargs))
        if self._timeout_s is not None and self._look_at is None:
            self._look_at = asyncio.get_running_loop().call_later(self._timeout_s, self._look, self._timeout_s)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more work; threads that are busy end with it, or with the process."""
        self._is_closed = True
        if self._look_at is not None:
            self._look_at.cancel()
        while self._free:
            self._free.pop().end()

    def _another(self) -> "_Worker":
        worker = _Worker(self._name, self._free)
        self._all.append(worker)
        return worker

    def _look(self, timeout_s: float) -> None:
        """Give up what is too late, and look again when the next one may be."""
        self._look_at = None
        now_s, waiting = time.monotonic(), []
        for worker in self._all:
            # In this order: a worker that is busy after its future was read had it in hand.
            future, is_busy = worker.future, worker.is_busy
            if not is_busy or worker in self._given_up:
                continue
            error = RunTimeoutError(f"model: expected a run to end within {timeout_s:g} s, but it took longer.")
            if now_s < worker.started_s + timeout_s:
                waiting.append(worker.started_s)
            elif _settle(future, error=error):
                self._given_up.append(worker)
        # One timer for all: one for each batch would be most of the work of a small model.
        if waiting:
            wait_s = min(waiting) + timeout_s - now_s
            self._look_at = asyncio.get_running_loop().call_later(wait_s, self._look, timeout_s)


class _Worker:
    def __init__(self, name: str, free: "deque[_Worker]") -> None:
        self.is_busy = False
        self.started_s = 0.0
        self.future: Future[Any] = Future()
        self._free = free
        self._work: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def start(self, future: "Future[Any]", work: Callable[[], Any]) -> None:
        self.is_busy, self.started_s, self.future = True, time.monotonic(), future
        self._work.put((future, work))

    def end(self) -> None:
        self._work.put(None)

    def _run(self) -> None:
        wait_for_turn(False)
        while (given := self._work.get()) is not None:
            future, work = given
            result, error = None, None
            try:
                result = work()
            # The outermost edge of a thread: whoever waits for the future is told.
            except BaseException as caught:
                error = caught
            self.is_busy, self.future = False, Future()
            # Before it is told, so that whoever is told finds a free thread.
            self._free.append(self)
            _settle(future, result, error)
            # Neither inputs nor answers are kept until the next ones come.
            del given, future, work, result, error


def _settle(future: "Future[Any]", result: Any = None, error: BaseException | None = None) -> bool:
    """Whether it was not settled before: a run may end in the moment in which it is given up."""
    try:
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
    except InvalidStateError:
        return False
    return True
