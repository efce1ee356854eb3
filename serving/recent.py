"""Requests of the last minute: how many a second, and how long those took that were answered well."""

import math
from collections import defaultdict, deque
from collections.abc import Callable

WINDOW_S = 60.0
# Buckets 2 % wide, so that a quantile is off by at most 1 %, in bounded memory at any rate.
_LOG_WIDTH = math.log(1.02)
_LEAST_S = 1e-6
# Of those that were refused or failed.
_NOT_ANSWERED = -1

Clock = Callable[[], float]


class Recent:
    """Requests of one model version, second by second. One thread adds, any may ask."""

    def __init__(self, clock: Clock, started_s: float) -> None:
        """Begin with none.

        Args:
            clock: Seconds that only go forward.
            started_s: When the service started, by that clock.
        """
        self._clock, self._started_s = clock, started_s
        self._seconds: deque[tuple[int, defaultdict[int, int]]] = deque()
        self._newest, self._counts = -1, defaultdict[int, int](int)

    def add(self, latency_s: float | None) -> None:
        """Count a request that ended now, and how long it took; None for one that was not answered well."""
        second = int(self._clock())
        if second != self._newest:
            self._turn(second)
        bucket = _NOT_ANSWERED if latency_s is None else int(math.log(max(latency_s, _LEAST_S) / _LEAST_S) / _LOG_WIDTH)
        self._counts[bucket] += 1

    def rate(self) -> float:
        """Requests per second over the last minute, or over the service's life where that is shorter."""
        now_s = self._clock()
        # A service younger than the window divides by its age, not by time in which it did not run.
        window_s = max(min(WINDOW_S, now_s - self._started_s), 1.0)
        return sum(self._merged(now_s).values()) / window_s

    def quantiles(self, shares: tuple[float, ...]) -> list[float]:
        """Latencies in seconds that so many of the last minute's good answers did not exceed; none without any."""
        merged = self._merged(self._clock())
        merged.pop(_NOT_ANSWERED, None)
        counts = sorted(merged.items())
        total = sum(count for _, count in counts)
        found: list[float] = []
        for share in shares if total else ():
            left = math.ceil(share * total)
            for bucket, count in counts:
                left -= count
                if left <= 0:
                    found.append(_LEAST_S * math.exp((bucket + 0.5) * _LOG_WIDTH))
                    break
        return found

    def _turn(self, second: int) -> None:
        self._newest, self._counts = second, defaultdict(int)
        self._seconds.append((second, self._counts))
        while self._seconds[0][0] <= second - WINDOW_S:
            self._seconds.popleft()

    def _merged(self, now_s: float) -> dict[int, int]:
        merged: dict[int, int] = defaultdict(int)
        # Copies in one step each: requests are added meanwhile.
        for second, counts in list(self._seconds):
            if second > now_s - WINDOW_S:
                for bucket, count in list(counts.items()):
                    merged[bucket] += count
        return merged
