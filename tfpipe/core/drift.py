"""How far what a service is asked lies from what its model was trained on: distances of two histograms."""

import math
from typing import Literal

import numpy as np

from tfpipe.core.signature import Array

Verdict = Literal["drifted", "moved", "steady", "too few rows"]

# Source: Siddiqi 2006, "Credit Risk Scorecards", system stability report: below 0.1 nothing has changed, from 0.25 on
# the population is another one. They are habits, not theorems; `psi_noise` says what chance alone does.
PSI_MOVED, PSI_DRIFTED = 0.1, 0.25
# Of fewer rows a histogram of ten bins says little.
LEAST_ROWS = 100
# Standard normal quantile of 0.99: of steady features, one reading in a hundred lies beyond the noise.
_Z_99 = 2.3263
# Source: Smirnov 1948, "Table for estimating the goodness of fit of empirical distributions"; sqrt(-ln(0.01 / 2) / 2).
_C_99 = 1.6276


def psi(expected: Array, actual: Array) -> float:
    """Population stability index: the sum of (p - q) ln(p / q) over the bins.

    Symmetric; 0 where both give every bin the same share. Half an observation of the smaller sample is added to every
    bin of both: without it a single row in an empty bin would make the index infinite.
    Source: Siddiqi 2006, "Credit Risk Scorecards"; it is Jeffreys' divergence of Kullback and Leibler 1951.

    Args:
        expected: (bins,) counts, one at least.
        actual: Likewise.

    Raises:
        ValueError: A histogram without a count, or of another length.
    """
    _check(expected, actual)
    one, other = expected / expected.sum(), actual / actual.sum()
    half = 0.5 / min(expected.sum(), actual.sum())
    scale = 1 + half * len(one)
    p, q = (one + half) / scale, (other + half) / scale
    return float(np.sum((p - q) * np.log(p / q)))


def ks(expected: Array, actual: Array) -> float:
    """Kolmogorov-Smirnov statistic: the largest distance of the cumulated shares, at the ends of bins.

    Of the samples themselves it is larger by no more than the share of the fullest bin.
    Source: Smirnov 1948, "Table for estimating the goodness of fit of empirical distributions".

    Args:
        expected: (bins,) counts in the order of the values, one at least.
        actual: Likewise.

    Raises:
        ValueError: A histogram without a count, or of another length.
    """
    _check(expected, actual)
    # Counts first: what all of a sample comes to is 1 then, to the last bit.
    one, other = np.cumsum(expected) / expected.sum(), np.cumsum(actual) / actual.sum()
    return float(np.abs(one - other).max())


def psi_noise(bins: int, expected: float, actual: float) -> float:
    """What the index of two samples of one population does not exceed in 99 of 100 readings.

    It is about (1/n + 1/m) times a chi-squared variable with bins - 1 degrees of freedom.
    Source: Yurdakul 2018, "Statistical Properties of Population Stability Index"; the quantile by Wilson and Hilferty
    1931.

    Args:
        bins: Of the histograms; 2 at least.
        expected: Rows of one sample; above 0.
        actual: Rows of the other; above 0.
    """
    freedom = max(bins - 1, 1)
    part = 2 / (9 * freedom)
    return freedom * (1 - part + _Z_99 * math.sqrt(part)) ** 3 * (1 / expected + 1 / actual)


def ks_noise(expected: float, actual: float) -> float:
    """What the statistic of two samples of one population does not exceed in 99 of 100 readings.

    Args:
        expected: Rows of one sample; above 0.
        actual: Rows of the other; above 0.
    """
    return _C_99 * math.sqrt(1 / expected + 1 / actual)


def psi_limit(bins: int, expected: float, actual: float, *, drifted: float = PSI_DRIFTED) -> float:
    """From which index on a feature has drifted: the habitual limit, or what chance does where that is more.

    Args:
        bins: See `psi_noise`.
        expected: See `psi_noise`.
        actual: See `psi_noise`.
        drifted: The habitual limit.
    """
    return max(drifted, psi_noise(bins, expected, actual))


def verdict(index: float, limit: float, rows: int) -> Verdict:
    """What an index says.

    Args:
        index: By `psi`.
        limit: By `psi_limit`.
        rows: Of the window.
    """
    if rows < LEAST_ROWS:
        return "too few rows"
    if index > limit:
        return "drifted"
    return "moved" if index > limit * PSI_MOVED / PSI_DRIFTED else "steady"


def _check(expected: Array, actual: Array) -> None:
    if len(expected) != len(actual) or not (expected.sum() > 0 and actual.sum() > 0):
        raise ValueError(
            f"histograms: expected two of the same bins, each with a count; received {list(expected)} and "
            f"{list(actual)}."
        )
