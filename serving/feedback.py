"""What was answered lately, so that who learns the truth can say whether it was right."""

import time
from collections.abc import Callable
from dataclasses import dataclass

# 200 bytes each; two generations of half as many.
_MOST = 16_384


@dataclass(frozen=True, slots=True)
class Given:
    """An answer of the past.

    Attributes:
        model: Its name.
        version: That answered.
        decided: As it answered: a label, or all of several.
        is_routed: See `Request.is_routed`.
    """

    model: str
    version: str
    decided: str | frozenset[str]
    is_routed: bool = True


class Lately:
    """Answers by request id, for a while: the oldest go where there are too many.

    Args:
        keep_s: Seconds for which an answer is kept at least, while there is room.
        clock: Seconds that only go forward.
    """

    def __init__(self, keep_s: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._keep_s, self._clock = keep_s, clock
        # Generations, rather than a time each: dropping one costs nothing.
        self._young: dict[str, Given] = {}
        self._old: dict[str, Given] = {}
        self._began_s = clock()

    def keep(self, request_id: str, given: Given) -> None:
        """Remember an answer; the newest, where an id comes again."""
        now_s = self._clock()
        if len(self._young) >= _MOST // 2 or now_s >= self._began_s + self._keep_s:
            # Where nothing came for two generations, what is there is too old.
            self._old = self._young if now_s < self._began_s + 2 * self._keep_s else {}
            self._young, self._began_s = {}, now_s
        self._young[request_id] = given

    def take(self, request_id: str) -> Given | None:
        """The answer of a request, once; None where it is not known, or not any more."""
        if self._clock() >= self._began_s + 2 * self._keep_s:
            self._young, self._old = {}, {}
        return self._young.pop(request_id, None) or self._old.pop(request_id, None)
