"""95 % confidence intervals of scores that were measured on a sample of what the world holds."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

_Z = 1.959963984540054  # of the normal distribution, 97.5 %
# Student's, 97.5 %, by degrees of freedom from 1 on. Source: Abramowitz & Stegun 1964, table 26.10.
_STUDENT = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281,
)  # fmt: skip
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


def mean_interval(values: Sequence[float]) -> tuple[float, float]:
    """The interval of a mean, by Student's distribution; (nan, nan) of fewer than two values.

    Args:
        values: Drawn independently.
    """
    if len(values) < 2:
        return math.nan, math.nan
    freedom = len(values) - 1
    factor = _STUDENT[freedom - 1] if freedom <= len(_STUDENT) else _student(freedom)
    mean = float(np.mean(values))
    half = factor * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return mean - half, mean + half


def _student(freedom: int) -> float:
    # Source: Abramowitz & Stegun 1964, 26.7.5, the first two terms; off by 0.002 at most above 10.
    first = (_Z**3 + _Z) / (4 * freedom)
    return _Z + first + (5 * _Z**5 + 16 * _Z**3 + 3 * _Z) / (96 * freedom**2)
