"""`training.max_time`: when a run has had its time."""

import time
from collections.abc import Callable

from tfpipe.training.observers import Observer


class TimeLimit(Observer):
    """Ends a run after so many seconds of training, by the clock of the chief.

    Args:
        limit_s: Seconds of training, of all sittings together.
        spent_s: Of them, spent in earlier sittings.
        is_chief: Whether this worker's clock counts.
        clock: Seconds that only grow.
    """

    def __init__(
        self, limit_s: float, spent_s: float, *, is_chief: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit_s, self._is_chief, self._clock = limit_s, is_chief, clock
        self._started = clock() - spent_s

    def end_reason(self) -> str | None:
        """That the time is up."""
        if not self._is_chief or self._clock() - self._started < self._limit_s:
            return None
        return f"training.max_time of {self._limit_s:g} s is up"
