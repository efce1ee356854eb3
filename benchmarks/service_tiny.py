"""Requests/s of the service with a model that computes next to nothing, over those of the best of its peers.

    make bench NAME=service_tiny

64 connections, every server alone on one core with one ONNX Runtime thread, the generator (load.c) on the other; by
turns. Then one connection alone, beside plain FastAPI.
"""

import statistics
from dataclasses import dataclass

import numpy as np

from benchmarks.load import Loaded, send_load
from benchmarks.measure import conclude
from benchmarks.served_models import TINY_SIDE, graphs_of, tiny_bundle
from benchmarks.servers import OURS, Asked, Running, contenders, in_turns

CONNECTIONS = 64
TURNS = 3
SECONDS, ALONE_S = 4.0, 2.0
GOAL = 1.2
PLAIN = "FastAPI"


@dataclass(frozen=True)
class Measured:
    busy: Loaded
    alone: Loaded | None

    def __str__(self) -> str:
        return f"{self.busy}" + (f"; one connection {self.alone}" if self.alone else "")


def main() -> None:
    bundle = tiny_bundle()
    rows = np.random.default_rng(0).random((16, 1, TINY_SIDE, TINY_SIDE, 1), np.float32)
    asked = Asked(bundle, graphs_of(bundle, "fp32", preprocess=False), "input", list(rows), batch_size=CONNECTIONS)
    found = in_turns(contenders(asked), asked, measure, turns=TURNS)
    busy = {name: [one.busy.throughput for one in measured] for name, measured in found.items()}
    for name in busy.keys() - {OURS}:
        ratios = _ratios(busy[OURS], busy[name])
        print(f"{OURS} over {name}: {statistics.median(ratios):.2f}, from {min(ratios):.2f} to {max(ratios):.2f}")
    alone = {name: [one.alone.p50_ms for one in found[name] if one.alone] for name in (OURS, PLAIN) if name in found}
    if PLAIN in alone:
        ratios = _ratios(alone[PLAIN], alone[OURS])
        print(f"one connection, p50 of {PLAIN} over {OURS}'s: {statistics.median(ratios):.2f} (goal: 1.0)")
    best = max(busy.keys() - {OURS}, key=lambda name: statistics.median(busy[name]))
    conclude(
        "service_tiny", _ratios(busy[OURS], busy[best]), goal=GOAL, unit=f"times the requests/s of {best}, the best"
    )


def measure(name: str, running: Running) -> Measured:
    busy = send_load(running.port, running.requests, connections=CONNECTIONS, seconds=SECONDS)
    if name not in (OURS, PLAIN):
        return Measured(busy, None)
    return Measured(busy, send_load(running.port, running.requests, connections=1, seconds=ALONE_S))


def _ratios(first: list[float], second: list[float]) -> list[float]:
    return [one / other for one, other in zip(first, second, strict=True)]


if __name__ == "__main__":
    main()
