"""The event loop waits for its turn while there is more to do than can be done.

Whatever wakes it, it takes a core from a run of a model, leaves that core's caches cold, and does a little; under ten
times the load that cost the models a twentieth of their time. To a request that waits for seconds, the milliseconds
until the loop's turn mean nothing. At any other time they would.
"""

import asyncio

from serving.cpus import wait_for_turn

# Fewer refusals in a window take less than a hundredth of a core, and may be of one client with little patience.
_WINDOW_S, _LEAST = 0.5, 25


class Courtesy:
    """Used on the event loop.

    Attributes:
        is_on: Whether the loop's thread waits for its turn.

    Args:
        window_s: Seconds between two looks, while there are refusals.
        least: From so many refusals in a window on the loop waits, until there are fewer.
    """

    def __init__(self, *, window_s: float = _WINDOW_S, least: int = _LEAST) -> None:
        self.is_on = False
        self._window_s, self._least = window_s, least
        self._refused, self._is_looking = 0, False

    def refused(self) -> None:
        """A request met a full queue, or could not be answered in time."""
        self._refused += 1
        if not self._is_looking:
            self._is_looking = True
            self._look_later()

    def _look_later(self) -> None:
        asyncio.get_running_loop().call_later(self._window_s, self._look)

    def _look(self) -> None:
        refused, self._refused = self._refused, 0
        if self.is_on != (refused >= self._least):
            self.is_on = not self.is_on
            wait_for_turn(self.is_on)
        self._is_looking = refused > 0
        if self._is_looking:
            self._look_later()
