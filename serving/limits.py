"""How often, and how much at once, a key may ask. Pure: the time is an argument."""

from dataclasses import dataclass

from serving.errors import LimitError
from serving.keys import Caller

# A bucket holds what a second brings: a client that sends one second's requests at once is still within its rate.
_BURST_S = 1.0


@dataclass
class Bucket:
    """A token bucket. Source: Turner, "New Directions in Communications", IEEE Communications Magazine 24(10), 1986.

    Attributes:
        rate: Tokens a second.
        tokens: Those that are there, at `updated_s`.
        updated_s: When they were counted.
    """

    rate: float
    tokens: float
    updated_s: float

    @classmethod
    def full(cls, rate: float, now_s: float) -> "Bucket":
        """A bucket that nobody took of."""
        return cls(rate, _capacity(rate), now_s)

    def take(self, now_s: float) -> float:
        """Take one token.

        Returns:
            0, or where there is none the seconds until there is one.
        """
        self.tokens = min(_capacity(self.rate), self.tokens + max(0.0, now_s - self.updated_s) * self.rate)
        self.updated_s = now_s
        if self.tokens < 1.0:
            return (1.0 - self.tokens) / self.rate
        self.tokens -= 1.0
        return 0.0


class KeyLimits:
    """What each key has used; on the event loop."""

    def __init__(self, rate_limit: float | None) -> None:
        """Begin with full buckets.

        Args:
            rate_limit: Requests a second of a key without a rate of its own, and of all callers together where the
                service asks for no key; None for any number.
        """
        self._rate_limit = rate_limit
        self._buckets: dict[str, Bucket] = {}
        self._active: dict[str, int] = {}

    def enter(self, caller: Caller, now_s: float) -> None:
        """Count a request that begins; each that was let in must `leave`.

        Raises:
            LimitError: It is one too many; it was not counted.
        """
        active = self._active.get(caller.name, 0)
        if caller.concurrency is not None and active >= caller.concurrency:
            raise LimitError(
                f"API key {caller.name!r}: expected at most {caller.concurrency} requests at once, received another.",
                concurrency=caller.concurrency,
                # Nobody knows when one of them ends.
                retry_after_s=1.0,
            )
        rate = caller.rate_limit or self._rate_limit
        if rate is not None:
            self._take(caller, rate, now_s)
        self._active[caller.name] = active + 1

    def leave(self, caller: Caller) -> None:
        """Count a request that ended."""
        self._active[caller.name] -= 1

    def _take(self, caller: Caller, rate: float, now_s: float) -> None:
        bucket = self._buckets.get(caller.name)
        # The file of keys may have changed its rate.
        if bucket is None or bucket.rate != rate:
            bucket = self._buckets[caller.name] = Bucket.full(rate, now_s)
        wait_s = bucket.take(now_s)
        if wait_s > 0:
            who = f"API key {caller.name!r}" if caller.name else "service"
            raise LimitError(
                f"{who}: expected at most {rate:g} requests a second, received more.",
                rate_limit=rate,
                retry_after_s=wait_s,
            )


def _capacity(rate: float) -> float:
    # Below one a second, a bucket that could not hold one token would never let anybody in.
    return max(1.0, rate * _BURST_S)
