"""Blocking work in a thread of its own, which is given up where the work takes too long."""

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from serving.errors import RunTimeoutError

T = TypeVar("T")


class WatchedThread:
    """A thread that runs one piece of work after another, and another thread once one of them hangs.

    Nothing can end a thread inside native code. One that hangs is left alone: it ends with the process, or when its
    work does, whose result nobody gets. What the work used (a session) may hang for the next one too, so the caller
    opens it anew.

    All methods are called on one event loop.

    Attributes:
        name: Of the thread.
    """

    def __init__(self, name: str) -> None:
        """Start the thread.

        Args:
            name: For whoever looks at the process.
        """
        self.name = name
        self._stuck: list[threading.Thread] = []
        self._active: asyncio.Future[Any] | None = None
        self._work, self._thread = self._start()

    @property
    def abandoned(self) -> int:
        """Threads that were given up and still hang."""
        self._stuck = [thread for thread in self._stuck if thread.is_alive()]
        return len(self._stuck)

    @property
    def is_busy(self) -> bool:
        """Whether work is in the thread that takes it."""
        return self._active is not None

    async def run(self, work: Callable[[], T], timeout_s: float) -> T:
        """Run blocking work; one at a time.

        Args:
            work: Called in the thread. A caller that is cancelled leaves it: the thread is free when it ends.
            timeout_s: How long it may take.

        Raises:
            RunTimeoutError: It took longer; the thread is given up.
            RuntimeError: Other work is in the thread.
        """
        if self._active is not None:
            raise RuntimeError(f"thread {self.name!r}: expected one piece of work at a time, received another.")
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        self._active = done
        self._work.put((work, done, loop))
        watch = loop.call_later(timeout_s, self._give_up, done, timeout_s)
        done.add_done_callback(lambda _: watch.cancel())
        # Shielded: what the thread does not stop for must not look done.
        return await asyncio.shield(done)

    def close(self) -> None:
        """Take no more work; the thread ends once it has none."""
        self._work.put(None)

    def _start(self) -> "tuple[queue.SimpleQueue[Any], threading.Thread]":
        work: queue.SimpleQueue[Any] = queue.SimpleQueue()
        thread = threading.Thread(target=_work_on, args=(work, self._finish), name=self.name, daemon=True)
        thread.start()
        return work, thread

    def _finish(self, done: "asyncio.Future[Any]", result: Any, error: BaseException | None) -> None:
        if self._active is done:
            self._active = None
        if done.done():
            return
        if error is None:
            done.set_result(result)
        else:
            done.set_exception(error)

    def _give_up(self, done: "asyncio.Future[Any]", timeout_s: float) -> None:
        if done.done():
            return
        self._stuck.append(self._thread)
        self._work.put(None)
        self._active = None
        self._work, self._thread = self._start()
        done.set_exception(
            RunTimeoutError(
                f"thread {self.name!r}: expected its work to end within {timeout_s:g} s, but it took longer and was "
                "given up."
            )
        )


def _work_on(work: "queue.SimpleQueue[Any]", finish: Callable[..., None]) -> None:
    while (given := work.get()) is not None:
        call, done, loop = given
        result, error = None, None
        try:
            result = call()
        # The outermost edge of this thread; the caller meets it.
        except BaseException as caught:
            error = caught
        try:
            loop.call_soon_threadsafe(finish, done, result, error)
        except RuntimeError:
            return  # the loop is closed: nobody waits any more
        # Neither inputs nor answers are kept until the next ones come.
        del given, call, done, result, error
