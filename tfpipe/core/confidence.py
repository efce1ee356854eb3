"""95 % confidence intervals of scores that were measured on a sample of what the world holds."""

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

_Z = 1.959963984540054  # of the normal distribution, 97.5 %
_REPLICATES = 400
_SEED = 0


def wilson(successes: float, trials: float) -> tuple[float, float]:
    """The interval of a share, e.g. an accuracy; (0, 1) where nothing was tried.

    Source: Wilson 1927, Journal of the American Statistical Association 22 (158), 209-212.

    Args:
        successes: Right answers, 0..trials.
        trials: Answers.
    """
    if trials <= 0:
        return 0.0, 1.0
    share, square = successes / trials, _Z**2
    middle = share + square / (2 * trials)
    half = _Z * math.sqrt(share * (1 - share) / trials + square / (4 * trials**2))
    return max(0.0, (middle - half) / (1 + square / trials)), min(1.0, (middle + half) / (1 + square / trials))


def bootstrap(tallies: NDArray[np.float64], score: Callable[[NDArray[np.float64]], float]) -> tuple[float, float]:
    """The percentile interval of a score that is computed of summed counts, e.g. an F1.

    Samples are drawn anew with replacement, always the same ones.

    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapter 13.

    Args:
        tallies: (samples, ...) float64, what each sample adds to the counts; at least one.
        score: Summed counts, without the first axis, -> the score.
    """
    count = len(tallies)
    drawn = np.random.default_rng(_SEED).multinomial(count, np.full(count, 1 / count), size=_REPLICATES)
    scores = [score(np.tensordot(times, tallies, axes=1)) for times in drawn.astype(np.float64)]
    low, high = np.nanpercentile(scores, (2.5, 97.5)).tolist()
    return low, high
