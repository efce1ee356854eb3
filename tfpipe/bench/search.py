"""The highest rate that holds a limit: brackets, bisects, and confirms what it found."""

from collections.abc import Awaitable, Callable

_STEP = 1.3
_LEAST_SHARE = 1e-2
_MOST_STEPS = 12


async def highest_rate(
    holds: Callable[[float], Awaitable[bool]], *, start: float, precision: float = 0.05, confirmations: int = 3
) -> float | None:
    """Find the highest rate at which `holds` says yes, over and over.

    One turn may be lucky: what the bisection ends at must hold `confirmations` turns more, one after the other; each
    time it does not, the rate is lowered by `precision`.

    Args:
        holds: Tries a rate, requests a second.
        start: A first guess, e.g. the rate of a closed loop; > 0.
        precision: Share of the rate that is worth no more turns.
        confirmations: Turns that have to hold at the end.

    Returns:
        Requests a second; None where even the lowest rate tried, a hundredth of `start`, does not hold.
    """
    low, high = await _bracket(holds, start)
    if low is None:
        return None
    while high / low > 1 + precision:
        middle = (low * high) ** 0.5
        if await holds(middle):
            low = middle
        else:
            high = middle
    while low > start * _LEAST_SHARE:
        # Not `all(...)` of a list: the first failure ends the trial.
        for _ in range(confirmations):
            if not await holds(low):
                break
        else:
            return low
        low /= 1 + precision
    return None


async def _bracket(holds: Callable[[float], Awaitable[bool]], start: float) -> tuple[float | None, float]:
    rate = start
    if await holds(rate):
        for _ in range(_MOST_STEPS):
            higher = rate * _STEP
            if not await holds(higher):
                return rate, higher
            rate = higher
        return rate, rate
    step = _STEP
    while rate > start * _LEAST_SHARE:
        lower = rate / step
        if await holds(lower):
            return lower, rate
        # Far off, faster.
        rate, step = lower, step * _STEP
    return None, rate
