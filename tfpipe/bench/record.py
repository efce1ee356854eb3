"""What was measured of each request, kept small: a minute may hold a million of them."""

from array import array
from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tfpipe.bench.channel import Reply


@dataclass
class Record:
    """The requests of one turn.

    Attributes:
        started_s: When the turn began, of `time.monotonic()`.
        ended_s: When its last request was to be sent; what was under way then is waited for.
        outcomes: How many requests ended in which way.
        refusals: The first body by outcome, of what was not ok.
        busy_share: Of the turn, the share that this process computed; near 1 the generator itself is the limit.
        interrupted: Whether somebody ended it early.
    """

    started_s: float = 0.0
    ended_s: float = 0.0
    outcomes: Counter[str] = field(default_factory=Counter)
    refusals: dict[str, str] = field(default_factory=dict)
    busy_share: float = 0.0
    interrupted: bool = False
    _intended_s: "array[float]" = field(default_factory=lambda: array("d"))
    _latency_s: "array[float]" = field(default_factory=lambda: array("d"))
    _lag_s: "array[float]" = field(default_factory=lambda: array("d"))

    def add(self, intended_s: float, done_s: float, reply: Reply) -> None:
        """One request that has ended.

        Args:
            intended_s: When it was to be sent.
            done_s: When its answer was whole.
            reply: What came of it.
        """
        self.outcomes[reply.outcome] += 1
        if reply.ok:
            self._intended_s.append(intended_s)
            self._latency_s.append(done_s - intended_s)
        elif reply.outcome not in self.refusals:
            self.refusals[reply.outcome] = reply.excerpt()

    def add_lag(self, seconds: float) -> None:
        """How late the generator itself was to begin a request."""
        self._lag_s.append(seconds)

    @property
    def duration_s(self) -> float:
        """Seconds in which requests were sent."""
        return max(self.ended_s - self.started_s, 1e-9)

    @property
    def sent(self) -> int:
        """Requests that have ended, in whatever way."""
        return self.outcomes.total()

    @property
    def answered(self) -> int:
        """Requests that were answered as hoped."""
        return len(self._latency_s)

    @property
    def intended_s(self) -> NDArray[np.float64]:
        """(answered,) moments of sending, seconds from the turn's start; < 0 where the answer alone came in it."""
        return np.array(self._intended_s, np.float64) - self.started_s

    @property
    def latencies_s(self) -> NDArray[np.float64]:
        """(answered,) seconds from the moment of sending that was intended to the whole answer."""
        return np.array(self._latency_s, np.float64)

    @property
    def lags_s(self) -> NDArray[np.float64]:
        """Seconds that the generator was late; empty in a closed loop."""
        return np.array(self._lag_s, np.float64)
