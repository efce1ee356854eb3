"""The learning-rate range test: rates that grow exponentially, and what the losses under them say.

Source: Smith 2015, "Cyclical learning rates for training neural networks", arXiv:1506.01186, section 3.3.
"""

import math
from collections.abc import Sequence

import numpy as np

# Behind by ten updates: 0.98, which fastai takes, lags by half of a test of 100 updates.
SMOOTHING = 0.9
# Source: fastai and Lightning give up at the same multiple of the least loss.
DIVERGED = 4.0
# The first updates say little: the smoothed loss is still that of a few batches.
_SKIPPED_SHARE = 0.1
# A slope is taken over so large a part of the test: from one update to the next it is that of the batches.
_SLOPE_SHARE = 0.1


def ramp(step: int, *, steps: int, lowest: float, highest: float) -> float:
    """Learning rate of one step, 0 <= step < steps: from `lowest` to `highest`, each the same multiple of the last."""
    return float(lowest * (highest / lowest) ** (step / max(1, steps - 1)))


def smoothed(losses: Sequence[float]) -> list[float]:
    """Exponential moving average of the losses, without the pull of its zero start.

    Source: bias correction, Kingma & Ba 2015, arXiv:1412.6980, section 3.
    """
    average, result = 0.0, []
    for count, loss in enumerate(losses, start=1):
        average = SMOOTHING * average + (1.0 - SMOOTHING) * loss
        result.append(average / (1.0 - SMOOTHING**count))
    return result


def diverged(smooth: Sequence[float]) -> bool:
    """Whether the last smoothed loss is not finite, or far above the least."""
    if not smooth:
        return False
    least = min(smooth)
    # A loss of one's own may be negative.
    return not smooth[-1] <= least + (DIVERGED - 1.0) * abs(least) or not math.isfinite(smooth[-1])


def steepest(rates: Sequence[float], smooth: Sequence[float]) -> float | None:
    """The rate at which the smoothed loss falls fastest by the logarithm of the rate, on its way to its least value.

    Args:
        rates: Increasing learning rates.
        smooth: The smoothed loss under each.

    Returns:
        The rate; None where the loss does not fall.
    """
    first, half = int(_SKIPPED_SHARE * len(smooth)), max(1, round(_SLOPE_SHARE * len(smooth) / 2))
    if not smooth:
        return None
    values = np.where(np.isfinite(smooth), smooth, np.inf)
    # What falls again after it has risen is no descent, but one cliff after the other.
    places = range(first + half, int(np.argmin(values[first:])) + first - half + 1)
    slopes = {
        place: (values[place + half] - values[place - half]) / math.log(rates[place + half] / rates[place - half])
        for place in places
    }
    steepest_place = min(slopes, key=lambda place: slopes[place], default=None)
    return None if steepest_place is None or slopes[steepest_place] >= 0 else float(rates[steepest_place])
