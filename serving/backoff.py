"""How long to wait before what has failed is started again; pure."""

_FIRST_S = 0.5
_LONGEST_S = 30.0
# What has run for longer than any wait has not failed for the same reason again.
_FORGIVEN_S = 2 * _LONGEST_S


class Backoff:
    """Waits that begin with none and double with every failure that follows soon: 0, 0.5, 1, 2, ... 30 s."""

    def __init__(self) -> None:
        self._failures = 0
        self._last_s: float | None = None

    def delay_s(self, now_s: float) -> float:
        """Count a failure, and give the seconds to wait.

        Args:
            now_s: Seconds that only go forward.
        """
        if self._last_s is None or now_s - self._last_s > _FORGIVEN_S:
            self._failures = 0
        self._failures += 1
        self._last_s = now_s
        if self._failures == 1:
            return 0.0
        # The exponent is bounded: a float ends at 2.0**1024.
        return min(_FIRST_S * 2.0 ** min(self._failures - 2, 16), _LONGEST_S)
