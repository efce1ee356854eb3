"""The least that a model must reach to be registered."""

import math
from collections.abc import Mapping


def missed_criteria(metrics: Mapping[str, float], min_metrics: Mapping[str, float]) -> list[str]:
    """What a run misses, one sentence a criterion; empty if it may be registered.

    Args:
        metrics: Final metrics by name.
        min_metrics: Least value by name. A metric that is absent or NaN misses.
    """
    missed = []
    for name, least in min_metrics.items():
        value = metrics.get(name, math.nan)
        # `not >=` rather than `<`: a NaN must miss.
        if not value >= least:
            received = f"received {value:.6g}" if name in metrics else "received none"
            missed.append(f"{name}: expected at least {least:.6g}, {received}.")
    return missed
