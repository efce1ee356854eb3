"""Requests/s of the service with a model that computes next to nothing, over those of the best of its peers.

    make bench NAME=service_tiny

64 connections, every server alone on one core with one ONNX Runtime thread, the generator (load.c) on the other; by
turns. Then one connection alone, beside plain FastAPI.
"""

import statistics

import numpy as np

from benchmarks.load import Loaded, send_load
from benchmarks.measure import conclude
from benchmarks.served_models import TINY_SIDE, graphs_of, tiny_bundle
from benchmarks.servers import Asked, contenders, serving

CONNECTIONS = 64
TURNS = 3
SECONDS, ALONE_S = 4.0, 2.0
GOAL = 1.2
PLAIN = "FastAPI"


def main() -> None:
    bundle = tiny_bundle()
    rows = np.random.default_rng(0).random((16, 1, TINY_SIDE, TINY_SIDE, 1), np.float32)
    asked = Asked(bundle, graphs_of(bundle, "fp32", preprocess=False), "input", list(rows), batch_size=64)
    listed = contenders(asked)
    busy: dict[str, list[float]] = {}
    alone: dict[str, list[float]] = {}
    for turn in range(TURNS):
        for name, contender in list(listed.items()):
            try:
                with serving(contender, asked) as running:
                    loaded = send_load(running.port, running.requests, connections=CONNECTIONS, seconds=SECONDS)
                    busy.setdefault(name, []).append(loaded.throughput)
                    one = None
                    if name in ("tfpipe", PLAIN):
                        one = send_load(running.port, running.requests, connections=1, seconds=ALONE_S)
                        alone.setdefault(name, []).append(one.p50_ms)
            except RuntimeError as error:
                print(f"{name}: left out, it does not answer: {error}", flush=True)
                del listed[name]
                busy.pop(name, None)
                continue
            print(f"turn {turn + 1}/{TURNS}  {name}: {_shown(loaded, one)}", flush=True)
    _conclude(busy, alone)


def _shown(loaded: Loaded, one: Loaded | None) -> str:
    text = f"{loaded.throughput:,.0f}/s, p50 {loaded.p50_ms:.2f} ms, p99 {loaded.p99_ms:.2f} ms, {loaded.failed} failed"
    return text if one is None else f"{text}; one connection: p50 {one.p50_ms:.3f} ms"


def _conclude(busy: dict[str, list[float]], alone: dict[str, list[float]]) -> None:
    ours = busy.pop("tfpipe")
    best = max(busy, key=lambda name: statistics.median(busy[name]))
    for name, values in busy.items():
        ratios = [mine / theirs for mine, theirs in zip(ours, values, strict=True)]
        print(f"tfpipe over {name}: {statistics.median(ratios):.2f}, from {min(ratios):.2f} to {max(ratios):.2f}")
    if PLAIN in alone:
        ratios = [theirs / mine for mine, theirs in zip(alone["tfpipe"], alone[PLAIN], strict=True)]
        print(f"one connection, p50 of {PLAIN} over tfpipe's: {statistics.median(ratios):.2f} (goal 1.0)")
    print(f"the best of the others: {best}")
    conclude(
        "service_tiny",
        [mine / theirs for mine, theirs in zip(ours, busy[best], strict=True)],
        goal=GOAL,
        unit=f"times the requests/s of {best}",
    )


if __name__ == "__main__":
    main()
