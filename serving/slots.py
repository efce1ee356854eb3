"""How several models share the cores: who may run a batch next."""

from collections.abc import Callable
from typing import Protocol


class Runs(Protocol):
    """What asks for a slot."""

    @property
    def used_s(self) -> float:
        """Seconds of running so far, on the scale of `Slots`."""

    @used_s.setter
    def used_s(self, seconds: float) -> None: ...


class Slots:
    """So many batches may run at a time; where more want to, the one that has run least is next.

    Start-time fair queueing: who comes after a pause begins at the least time of those that wait, so that a pause earns
    no credit. Source: Goyal, Vin, Cheng, "Start-time Fair Queuing", SIGCOMM 1996.

    Args:
        number: Batches at a time.
    """

    def __init__(self, number: int) -> None:
        self._free = number
        self._waiting: dict[Runs, Callable[[], None]] = {}
        self._clock_s = 0.0

    @property
    def is_free(self) -> bool:
        """Whether one is."""
        return self._free > 0

    def take(self, runs: Runs, again: Callable[[], None]) -> bool:
        """Take a slot, if one is free.

        Args:
            runs: Who asks.
            again: Called once a slot is free, if none is now.
        """
        if self._free:
            self._free -= 1
            self._waiting.pop(runs, None)
            runs.used_s = max(runs.used_s, self._clock_s)
            self._clock_s = runs.used_s
            return True
        self._waiting[runs] = again
        return False

    def give_back(self, runs: Runs, seconds: float) -> None:
        """A batch ended after so many seconds."""
        self._free += 1
        runs.used_s += seconds
        if self._waiting:
            next_one = min(self._waiting, key=lambda one: max(one.used_s, self._clock_s))
            self._waiting.pop(next_one)()

    def leave(self, runs: Runs) -> None:
        """Who asked does not want any more."""
        self._waiting.pop(runs, None)
