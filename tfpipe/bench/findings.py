"""What a session found, as one JSON document: the terminal's summary and the page are made of it."""

import math
import os
import platform
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np

from tfpipe import __version__
from tfpipe.bench import statistics
from tfpipe.bench.record import Record
from tfpipe.bench.session import Plan, Target
from tfpipe.bench.statistics import QUANTILES, Estimate

# Above this share of one core, the generator itself may be the limit.
_BUSY = 0.9
# A generator that is this late is told, where it is also a good part of what was measured.
_LATE_S, _LATE_SHARE = 1e-3, 0.1
# Fewer answers above a quantile leave it to chance.
_FEW_ABOVE = 10


def find(targets: Sequence[Target], plan: Plan, *, interrupted: bool) -> dict[str, Any]:
    """Everything that was measured, JSON throughout; null where nothing is known.

    Args:
        targets: Measured.
        plan: How.
        interrupted: Whether somebody ended it early.
    """
    found = [_target(one) for one in targets]
    return {
        "tfpipe": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"processor": platform.processor() or platform.machine(), "cores": os.cpu_count()},
        "loop": "closed" if plan.rate is None and plan.criterion is None else "open",
        "plan": {
            "connections": plan.connections,
            "rate": plan.rate,
            "duration_s": plan.duration_s,
            "warm_up_s": plan.warm_up_s,
            "rounds": plan.rounds,
            "seed": plan.seed,
            "search": plan.criterion.text if plan.criterion else None,
        },
        "targets": found,
        "comparison": _comparison(targets),
        "warnings": [warning for one in targets for warning in _warnings(one)],
        "interrupted": interrupted,
    }


def _target(target: Target) -> dict[str, Any]:
    records = target.records
    outcomes: Counter[str] = sum((record.outcomes for record in records), Counter())
    refusals: dict[str, str] = {}
    for record in records:
        refusals = {**record.refusals, **refusals}
    return {
        "target": target.title,
        "model": target.model.name,
        "version": target.model.version,
        "sent": outcomes.total(),
        "answered": sum(record.answered for record in records),
        "outcomes": dict(outcomes.most_common()),
        "refusals": refusals,
        "throughput_rps": _estimate(statistics.throughput(records)) if records else None,
        "latency_ms": _latency_ms(records),
        "generator": {
            "busy_share": max((record.busy_share for record in records), default=0.0),
            "lag_p99_ms": _number(lag_s(records) * 1e3),
        },
        "search": [{"rate": rate, **verdict.to_dict()} for rate, verdict in target.probes],
        "found_rate": target.found_rate,
    }


def _latency_ms(records: Sequence[Record]) -> dict[str, Any]:
    if not any(record.answered for record in records):
        return {}
    values = np.concatenate([record.latencies_s for record in records])
    found = {
        name: _estimate(statistics.latency(records, quantile), 1e3)
        for name, quantile in QUANTILES.items()
        if len(values) * (1 - quantile) >= 1
    }
    return {**found, "mean": _number(float(values.mean()) * 1e3), "max": _number(float(values.max()) * 1e3)}


def lag_s(records: Sequence[Record]) -> float:
    """99th percentile of how late the generator was; NaN of closed loops."""
    lags = np.concatenate([record.lags_s for record in records]) if records else np.empty(0)
    return float(np.quantile(lags, 0.99)) if len(lags) else math.nan


def _comparison(targets: Sequence[Target]) -> dict[str, Any] | None:
    if len(targets) < 2:
        return None
    first, *others = targets
    return {other.title: _ratios(other, first) for other in others}


def _ratios(target: Target, first: Target) -> dict[str, Any]:
    """By figure, that of a target over that of the first one, with its interval over turns."""
    turns = [
        (one, other)
        for one, other in zip(target.records, first.records, strict=False)
        if one.answered and other.answered and not one.interrupted and not other.interrupted
    ]
    if not turns:
        return {}
    figures = {"throughput": statistics.ratio(*_by_turn(turns, lambda one: statistics.throughput([one]).value))}
    for name in ("p50", "p95", "p99"):
        quantile = QUANTILES[name]
        figures[name] = statistics.ratio(
            *_by_turn(turns, lambda one, q=quantile: float(np.quantile(one.latencies_s, q)))
        )
    if target.found_rate and first.found_rate:
        rate = target.found_rate / first.found_rate
        figures = {"found_rate": Estimate(rate, math.nan, math.nan)}
    return {name: _estimate(estimate) for name, estimate in figures.items()}


def _by_turn(turns: Sequence[tuple[Record, Record]], figure: Any) -> tuple[list[float], list[float]]:
    return [figure(one) for one, _ in turns], [figure(other) for _, other in turns]


def _warnings(target: Target) -> list[str]:
    records, found = target.records, []
    if not records:
        return [] if not target.probes else [f"{target.title}: no rate that was tried held the limit."]
    busy = max(record.busy_share for record in records)
    if busy > _BUSY:
        found.append(
            f"{target.title}: the generator computed {busy:.0%} of the time and may be the limit itself; "
            "its figures are a lower bound of the service's. Fewer connections, a lower rate, or several generators."
        )
    answered = sum(record.answered for record in records)
    late_s = lag_s(records)
    if answered and late_s > max(_LATE_S, _LATE_SHARE * statistics.latency(records, 0.5).value):
        found.append(
            f"{target.title}: the generator was up to {late_s * 1e3:.1f} ms late (99th percentile), "
            "which the latencies include. Is another program using its core?"
        )
    if 0 < answered * 0.01 < _FEW_ABOVE:
        found.append(f"{target.title}: {answered} answers say little about p99. --duration, for more.")
    return found


def _estimate(estimate: Estimate, factor: float = 1.0) -> dict[str, float | None]:
    values = {"value": estimate.value, "low": estimate.low, "high": estimate.high}
    return {name: _number(value * factor) for name, value in values.items()}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
