"""Who may pass, and how often: API keys and their limits, before anything of a request is read."""

import time
from collections.abc import Callable, Mapping

from serving.keys import Caller, Keys, Scope
from serving.limits import KeyLimits

_PREDICT = ("predict", "feedback", "drift", "v1", "v2")


class Gate:
    """What every request passes first, by whatever protocol it came; on the event loop."""

    def __init__(self, keys: Keys, limits: KeyLimits, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._keys, self._limits, self._clock = keys, limits, clock

    def enter(self, headers: Mapping[bytes, bytes], scope: Scope) -> Caller:
        """Let a request in; whoever was let in must `leave`.

        Args:
            headers: By lower-case name.
            scope: What it asks for.

        Raises:
            UnauthorizedError: No key, or an unknown one.
            ForbiddenError: The key has not the scope.
            LimitError: The key asks too often, or too much at once.
        """
        caller = self._keys.authorize(headers, scope)
        self._limits.enter(caller, self._clock())
        return caller

    def leave(self, caller: Caller) -> None:
        """A request that was let in is answered."""
        self._limits.leave(caller)


def scope_of(path: str) -> Scope | None:
    """What a path needs; None for what anybody may read: health, metrics, documentation, the page."""
    first, _, rest = path[1:].partition("/")
    if first == "admin":
        return "admin"
    if first == "v2":
        if rest.startswith("health/"):
            return None
        # Of the repository extension what changes something is administration.
        if rest.startswith("repository/") and rest.endswith(("/load", "/unload")):
            return "admin"
    return "predict" if first in _PREDICT else None
