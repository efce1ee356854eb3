"""Figures of a load with their intervals.

Answers of one moment are alike: a pause of the server delays all that are under way. Intervals that take requests for
independent are far too narrow, so whole slices of time are drawn anew, not requests (the block bootstrap: Künsch 1989,
Annals of Statistics 17 (3), 1217-1241).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tfpipe.bench.record import Record
from tfpipe.core.confidence import bootstrap, mean_interval

QUANTILES = {"p50": 0.50, "p90": 0.90, "p95": 0.95, "p99": 0.99, "p99.9": 0.999}
SLICES = 20
# Latencies fall into classes of 0.5 % width, from 1 µs to 1,000 s.
_CLASS_WIDTH = math.log(1.005)
_LEAST_S, _MOST_S = 1e-6, 1e3
_CLASSES = math.ceil(math.log(_MOST_S / _LEAST_S) / _CLASS_WIDTH) + 1


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95 % interval; NaN where nothing is known."""

    value: float
    low: float
    high: float


def classify(latencies_s: NDArray[np.float64]) -> NDArray[np.int64]:
    """(n,) the class of each latency."""
    logs = np.log(np.clip(latencies_s, _LEAST_S, _MOST_S) / _LEAST_S)
    return np.asarray(logs / _CLASS_WIDTH, np.int64)


def quantile_of(counts: NDArray[np.float64], quantile: float) -> float:
    """The quantile of counted latencies, to half a class.

    Args:
        counts: (classes,) how many latencies fell into each.
        quantile: 0..1.

    Returns:
        Seconds; NaN where nothing was counted.
    """
    cumulated = np.cumsum(counts)
    if cumulated[-1] <= 0:
        return math.nan
    index = int(np.searchsorted(cumulated, quantile * cumulated[-1], side="left"))
    return _LEAST_S * math.exp((index + 0.5) * _CLASS_WIDTH)


def tallies(records: Sequence[Record], slices: int = SLICES) -> NDArray[np.float64]:
    """(slices, classes) latencies counted by slice of time, over all turns together."""
    each = max(1, slices // len(records))
    counted = np.zeros((each * len(records), _CLASSES))
    for index, record in enumerate(records):
        place = np.asarray(record.intended_s / record.duration_s * each, np.int64)
        np.add.at(counted, (index * each + np.clip(place, 0, each - 1), classify(record.latencies_s)), 1)
    return counted


def latency(records: Sequence[Record], quantile: float) -> Estimate:
    """A quantile of the latencies of answered requests, seconds; the value is exact, the interval to 0.5 %."""
    values = np.concatenate([record.latencies_s for record in records])
    if not len(values):
        return Estimate(math.nan, math.nan, math.nan)
    exact = float(np.quantile(values, quantile, method="inverted_cdf"))
    low, high = bootstrap(tallies(records), lambda counts: quantile_of(counts, quantile))
    return Estimate(exact, min(low, exact), max(high, exact))


def throughput(records: Sequence[Record]) -> Estimate:
    """Requests answered a second, by the moment of the answer."""
    # Those that came after the end belong to no slice: a closed loop would gain by them.
    counts = np.concatenate([_answers_by_slice(record, max(1, SLICES // len(records))) for record in records])
    seconds = sum(record.duration_s for record in records)
    low, high = bootstrap(counts, float)
    return Estimate(float(counts.sum()) / seconds, low / seconds, high / seconds)


def _answers_by_slice(record: Record, slices: int) -> NDArray[np.float64]:
    done_s = record.intended_s + record.latencies_s
    return np.histogram(done_s, bins=slices, range=(0.0, record.duration_s))[0].astype(np.float64)


def ratio(first: Sequence[float], second: Sequence[float]) -> Estimate:
    """How a figure of two targets compares, each turn of one beside the turn of the other.

    Args:
        first: A figure by turn; > 0, at least one.
        second: Of the other target, in the same order.

    Returns:
        first / second; the interval is Student's, of the logarithms, and NaN of a single turn.
    """
    logs = np.log(np.asarray(first, np.float64)) - np.log(np.asarray(second, np.float64))
    low, high = mean_interval(logs.tolist())
    return Estimate(math.exp(float(np.mean(logs))), math.exp(low), math.exp(high))
