"""What a run was like, in a few lines: printed at its end, and a table in its report."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from tfpipe.training.telemetry import SHARES, worker_shares


def summary_rows(history: Sequence[Mapping[str, float]], *, workers: int, wall_time_s: float) -> dict[str, str]:
    """What is worth knowing when a run is over, by name.

    Args:
        history: Metrics by name, one entry an epoch; figures that an epoch lacks are left out.
        workers: Number of workers.
        wall_time_s: Seconds of training.
    """
    rows = {"epochs": f"{len(history)} in {_duration(wall_time_s)}"}
    rate = _mean(history, "samples_per_second")
    each = f", {rate / workers:,.0f} a worker" if workers > 1 else ""
    rows["samples/s"] = f"{rate:,.0f}{each}"
    rows["scaling efficiency"] = _percent(_mean(history, "scaling_efficiency"))
    for rank, shares in mean_worker_shares(history).items():
        name = f"time of worker {rank}" if workers > 1 else "time"
        rows[name] = ", ".join(f"{label} {_percent(shares[label])}" for label in SHARES)
    rows["slowest worker"] = _slowest(history, workers)
    rows["skipped steps"] = _count(history, "skipped_steps")
    rows["peak memory"] = _gibibytes(history, "memory_peak_bytes")
    rows["peak GPU memory"] = _gibibytes(history, "gpu_memory_peak_bytes")
    return {name: text for name, text in rows.items() if text and not text.startswith("nan")}


def summary_text(rows: Mapping[str, str]) -> str:
    """The rows, one a line, in two columns."""
    width = max(map(len, rows), default=0)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in rows.items())


def mean_worker_shares(history: Sequence[Mapping[str, float]]) -> dict[int, dict[str, float]]:
    """Shares of the time by rank, mean over the epochs that had as many workers as the last."""
    epochs = [shares for metrics in history if (shares := worker_shares(metrics))]
    if not epochs:
        return {}
    alike = [shares for shares in epochs if shares.keys() == epochs[-1].keys()]
    return {
        rank: {name: float(np.mean([shares[rank][name] for shares in alike])) for name in SHARES} for rank in epochs[-1]
    }


def _slowest(history: Sequence[Mapping[str, float]], workers: int) -> str:
    """The rank that was slowest most often."""
    ranks = [int(metrics["slowest_rank"]) for metrics in history if "slowest_rank" in metrics]
    if workers == 1 or not ranks:
        return ""
    rank = max(sorted(set(ranks)), key=ranks.count)
    return f"{rank}, in {ranks.count(rank)} of {len(ranks)} epochs"


def _mean(history: Sequence[Mapping[str, float]], name: str) -> float:
    values = [metrics[name] for metrics in history if math.isfinite(metrics.get(name, math.nan))]
    return float(np.mean(values)) if values else math.nan


def _count(history: Sequence[Mapping[str, float]], name: str) -> str:
    values = [metrics[name] for metrics in history if name in metrics]
    return f"{sum(values):,.0f}" if values else ""


def _gibibytes(history: Sequence[Mapping[str, float]], name: str) -> str:
    values = [metrics[name] for metrics in history if name in metrics]
    return f"{max(values) / 2**30:.2f} GiB" if values else ""


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _duration(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
