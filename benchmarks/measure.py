"""What every benchmark shares: interleaved repeats, their spread, and the last line of JSON."""

import json
import statistics
import time
from collections.abc import Callable, Mapping

from tfpipe.distributed import World


def alternate(contenders: Mapping[str, Callable[[], float]], *, repeats: int) -> dict[str, list[float]]:
    """Run the contenders in turn, so that a busy minute of the machine meets all of them; prints each figure.

    Args:
        contenders: By name, what runs once and gives its figure.
        repeats: Turns.

    Returns:
        Figures by name, one a turn.
    """
    figures: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(repeats):
        for name, run in contenders.items():
            figures[name].append(run())
            print(f"turn {turn + 1}/{repeats}  {name}: {figures[name][-1]:.6g}", flush=True)
    return figures


def median_s(world: World, action: Callable[[], object], repeats: int) -> float:
    """Seconds of something that all workers begin together."""
    seconds = []
    for _ in range(repeats):
        world.gather_objects(None)
        started = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def ratios(figures: Mapping[str, list[float]], numerator: str, denominator: str) -> list[float]:
    """The ratio of each turn."""
    return [a / b for a, b in zip(figures[numerator], figures[denominator], strict=True)]


def conclude(name: str, values: list[float], *, goal: float, unit: str) -> None:
    """Print the spread, then the result as one JSON object; larger is better."""
    value = statistics.median(values)
    print(f"{name}: median {value:.3f}, from {min(values):.3f} to {max(values):.3f} over {len(values)} turns")
    print(json.dumps({"name": name, "value": round(value, 4), "goal": goal, "unit": unit, "passed": value >= goal}))


def conclude_nearest(name: str, margins: Mapping[str, list[float]]) -> None:
    """Conclude with the figure whose median is nearest to its limit.

    Args:
        name: Of the benchmark.
        margins: Each figure over its goal, by name, one a turn.
    """
    nearest = min(margins, key=lambda figure: statistics.median(margins[figure]))
    print(f"nearest to its limit: {nearest}")
    conclude(name, margins[nearest], goal=1.0, unit="worst figure over its goal")


def median_of(run: Callable[[], object], *, runs: int = 5) -> Callable[[], float]:
    """A contender: the median milliseconds of some runs."""

    def durations() -> float:
        measured = []
        for _ in range(runs):
            started = time.perf_counter()
            run()
            measured.append((time.perf_counter() - started) * 1e3)
        return statistics.median(measured)

    # Tracing, allocation and packing of weights are not what is compared.
    durations()
    return durations
