"""The event loop waits for its turn while there is more to do than can be done.

Whatever wakes it, it takes a core from a run of a model, leaves that core's caches cold, and does a little; under ten
times the load a tenth of the model's time went so. To a request that waits for seconds, the milliseconds until the
loop's turn mean nothing. At any other time they would.
"""

import asyncio

from serving.cpus import wait_for_turn

# Without a refusal for so long, it is over.
_OVER_S = 0.5


class Courtesy:
    """Used on the event loop.

    Attributes:
        is_on: Whether the loop's thread waits for its turn.

    Args:
        over_s: Without a refusal for so long, it does no more.
    """

    def __init__(self, over_s: float = _OVER_S) -> None:
        self.is_on = False
        self._over_s, self._is_new = over_s, False

    def refused(self) -> None:
        """A request met a full queue, or could not be answered in time."""
        self._is_new = True
        if not self.is_on:
            self.is_on = True
            wait_for_turn(True)
            self._look_later()

    def _look_later(self) -> None:
        asyncio.get_running_loop().call_later(self._over_s, self._look)

    def _look(self) -> None:
        if self._is_new:
            self._is_new = False
            self._look_later()
        else:
            self.is_on = False
            wait_for_turn(False)
