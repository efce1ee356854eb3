"""A circuit breaker: a version that fails again and again is left alone for a while."""

import time
from collections import deque
from collections.abc import Callable

# Of the newest requests, so many are looked at; of at least so many, such a share must have failed.
_WINDOW, _LEAST, _SHARE = 20, 10, 0.5
_FIRST_PAUSE_S, _LAST_PAUSE_S = 1.0, 30.0


class Breaker:
    """Closed: requests pass. Open: none does. After a pause one is let through, whose outcome decides.

    Args:
        clock: Seconds that only go forward.
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._newest: deque[bool] = deque(maxlen=_WINDOW)
        self._pause_s = _FIRST_PAUSE_S
        self._opened_s: float | None = None
        self._is_trying = False

    @property
    def is_open(self) -> bool:
        """Whether requests are kept away; asking does not use up the one that is let through."""
        return self._opened_s is not None

    def admit(self) -> bool:
        """Whether a request may pass; the one that is let through after a pause must be recorded."""
        if self._opened_s is None:
            return True
        if self._clock() < self._opened_s + self._pause_s:
            return False
        # Where it is never recorded, as its client has hung up, the next pause ends with another.
        self._opened_s, self._is_trying = self._clock(), True
        return True

    def record(self, *, failed: bool) -> None:
        """Take in the outcome of a request that was admitted."""
        if self._opened_s is not None:
            self._record_trial(failed)
            return
        self._newest.append(failed)
        if len(self._newest) >= _LEAST and sum(self._newest) >= _SHARE * len(self._newest):
            self._opened_s = self._clock()

    def _record_trial(self, failed: bool) -> None:
        if not self._is_trying:
            # It was admitted before the breaker opened.
            return
        self._is_trying = False
        if failed:
            self._opened_s, self._pause_s = self._clock(), min(2 * self._pause_s, _LAST_PAUSE_S)
        else:
            self._opened_s, self._pause_s = None, _FIRST_PAUSE_S
            self._newest.clear()
