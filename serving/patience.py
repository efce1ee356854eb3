"""How long a request is waited for, and whether its client is still there.

One timer a request, and its connection's word where our own server has it: a task that listens for each client costs
more than a small model.
"""

import asyncio
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Protocol

from starlette.types import Receive

from serving.errors import ClientGoneError


class Watch(Protocol):
    """Tells of a client that is gone; see `serving.http_protocol.Client`."""

    def when_gone(self, call: Callable[[], None]) -> None:
        """Have a function called once, if it closes the connection before it is answered."""

    def forget(self) -> None:
        """Have nothing called any more."""


class Listener:
    """A `Watch` by a task of its own, on servers that have none.

    Args:
        receive: ASGI's; the whole body was read from it.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._task: asyncio.Task[None] | None = None

    def when_gone(self, call: Callable[[], None]) -> None:
        """See `Watch`."""
        self._task = asyncio.get_running_loop().create_task(self._listen(call))

    def forget(self) -> None:
        """See `Watch`."""
        if self._task is not None:
            self._task.cancel()

    async def _listen(self, call: Callable[[], None]) -> None:
        # After the body nothing else comes.
        if (await self._receive())["type"] == "http.disconnect":
            call()


class Patience:
    """With one request: what its task does inside the block is given up when nobody waits for it any more.

    Args:
        until_s: `time.monotonic()` until which it is waited for.
        late: Makes the error that the block then ends with.
    """

    __slots__ = ("_late", "_lost", "_task", "_timer", "_until_s", "_wakes_s", "_watch")

    def __init__(self, until_s: float, late: Callable[[], Exception]) -> None:
        self._until_s = self._wakes_s = until_s
        self._late: Callable[[], Exception] | None = late
        self._task: asyncio.Task[Any] | None = None
        self._lost: Exception | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._watch: Watch | None = None

    def __enter__(self) -> "Patience":
        """Begin to wait."""
        self._task = asyncio.current_task()
        self._arm()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """End it.

        Raises:
            Exception: What `late` made, if it was too late.
            ClientGoneError: The client hung up.
        """
        if self._timer is not None:
            self._timer.cancel()
        if self._watch is not None:
            self._watch.forget()
        task, self._task = self._task, None
        # What makes the error holds this and the request: a circle that would keep the request's model in memory
        # until a collection comes by.
        self._late = self._watch = None
        # Cancelled from elsewhere, as a drain does, it stays so.
        if self._lost is None or task is None:
            return
        task.uncancel()
        if kind is not None and issubclass(kind, asyncio.CancelledError):
            raise self._lost from None

    def wait_until(self, until_s: float) -> None:
        """From now on wait until another moment, a `time.monotonic()`."""
        self._until_s = until_s
        # A later one is looked at when the timer goes off.
        if until_s < self._wakes_s and self._timer is not None:
            self._timer.cancel()
            self._arm()

    def wait_for(self, watch: Watch) -> None:
        """From now on give the block up, too, where the client closes the connection; its body was read."""
        self._watch = watch
        watch.when_gone(self._be_alone)

    def _arm(self) -> None:
        self._wakes_s = self._until_s
        late_s = max(self._until_s - time.monotonic(), 0.0)
        self._timer = asyncio.get_running_loop().call_later(late_s, self._look)

    def _look(self) -> None:
        if self._until_s > self._wakes_s:
            self._arm()
        elif self._late is not None:
            self._give_up(self._late())

    def _be_alone(self) -> None:
        self._give_up(ClientGoneError("client: expected it to wait for the answer, but it closed the connection."))

    def _give_up(self, lost: Exception) -> None:
        if self._lost is None and self._task is not None:
            self._lost = lost
            self._task.cancel()
