"""How long each request is waited for, and whether its client is still there: one timer looks after all of them.

A timer of its own for each, let alone a task that listens for its client, costs more than a small model. Most answers
are there before the first look.
"""

import asyncio
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

from starlette.types import Receive

from serving.errors import ClientGoneError

# A client that hangs up is missed after one or two of them; deadlines are kept to the moment.
_LOOK_EVERY_S = 0.05


class Timekeeper:
    """Looks at every request under way from time to time; used on the event loop."""

    def __init__(self) -> None:
        self.under_way: set[Patience] = set()
        self._is_looking = False

    def begin(self, patience: "Patience") -> None:
        """Look after one more."""
        self.under_way.add(patience)
        if not self._is_looking:
            self._is_looking = True
            asyncio.get_running_loop().call_later(_LOOK_EVERY_S, self._look)

    def _look(self) -> None:
        now_s = time.monotonic()
        for one in list(self.under_way):
            one.look(now_s)
        self._is_looking = bool(self.under_way)
        if self._is_looking:
            asyncio.get_running_loop().call_later(_LOOK_EVERY_S, self._look)


class Patience:
    """With one request: what its task does inside the block is given up when nobody waits for it any more.

    Args:
        timekeeper: The service's.
        until_s: `time.monotonic()` until which it is waited for.
        late: Makes the error that the block then ends with.
    """

    __slots__ = ("_begun_s", "_late", "_lost", "_receive", "_task", "_timekeeper", "_timer", "_until_s", "_watcher")

    def __init__(self, timekeeper: Timekeeper, until_s: float, late: Callable[[], Exception]) -> None:
        self._timekeeper, self._until_s = timekeeper, until_s
        self._late: Callable[[], Exception] | None = late
        self._task: asyncio.Task[Any] | None = None
        self._lost: Exception | None = None
        self._receive: Receive | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._begun_s = 0.0

    def __enter__(self) -> "Patience":
        """Begin to wait."""
        self._task = asyncio.current_task()
        self._begun_s = now_s = time.monotonic()
        self._timekeeper.begin(self)
        self._arm(now_s)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """End it.

        Raises:
            Exception: What `late` made, if it was too late.
            ClientGoneError: The client hung up.
        """
        self._timekeeper.under_way.discard(self)
        if self._timer is not None:
            self._timer.cancel()
        if self._watcher is not None:
            self._watcher.cancel()
        task, self._task = self._task, None
        # What makes the error holds this and the request: a circle that would keep the request's model in memory
        # until a collection comes by.
        self._late = None
        # Cancelled from elsewhere, as a drain does, it stays so.
        if self._lost is None or task is None:
            return
        task.uncancel()
        if kind is not None and issubclass(kind, asyncio.CancelledError):
            raise self._lost from None

    def wait_until(self, until_s: float, receive: Receive | None = None) -> None:
        """From now on wait until another moment.

        Args:
            until_s: `time.monotonic()` of it.
            receive: ASGI's, once the whole body was read from it: from now on the block is given up, too, where the
                client closes the connection.
        """
        self._until_s = until_s
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now_s = time.monotonic()
        if receive is not None:
            self._receive, self._begun_s = receive, now_s
        if self._task is not None:
            self._arm(now_s)

    def look(self, now_s: float) -> None:
        """See whether it is time."""
        self._arm(now_s)
        if self._receive is not None and self._watcher is None and now_s >= self._begun_s + _LOOK_EVERY_S:
            self._watcher = asyncio.get_running_loop().create_task(self._listen(self._receive))

    def _arm(self, now_s: float) -> None:
        # Before the next look: to the moment.
        if self._timer is None and self._until_s < now_s + 2 * _LOOK_EVERY_S:
            late_s = max(self._until_s - now_s, 0.0)
            self._timer = asyncio.get_running_loop().call_later(late_s, self._be_late)

    def _be_late(self) -> None:
        if self._late is not None:
            self._give_up(self._late())

    async def _listen(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._give_up(ClientGoneError("client: expected it to wait for the answer, but it closed the connection."))

    def _give_up(self, lost: Exception) -> None:
        if self._lost is None and self._task is not None:
            self._lost = lost
            self._task.cancel()
