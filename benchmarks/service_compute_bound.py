"""Images/s of the service with ResNet-50 INT8 over those of a bare ONNX Runtime loop on the same core, and its peers.

    make bench NAME=service_compute_bound

Pixels of 224 x 224 by the protocol's binary extension, every peer by its fastest documented body; every server alone
on one core with one thread, the generator (load.c) on the other; by turns. Then 70 % of what was reached, at random
moments (an open loop), for its 95th percentile. Making the model takes some minutes the first time.
"""

import statistics

import numpy as np

from benchmarks.bare import rows_per_second
from benchmarks.load import send_load
from benchmarks.measure import conclude
from benchmarks.served_models import graphs_of, resnet50_bundle
from benchmarks.servers import Asked, contenders, serving

CONNECTIONS = 16
TURNS = 2
SECONDS, WARM_UP_S, BARE_S, OPEN_S = 7.0, 2.0, 8.0, 10.0
BATCH_SIZES = (1, 2, 4, 8, 16)
GOAL = 0.95
SHARE, MOST_P95_MS = 0.7, 50.0


def main() -> None:
    bundle = resnet50_bundle()
    graphs = graphs_of(bundle, "int8", preprocess=True)
    rows = np.random.default_rng(0).integers(0, 256, (4, 1, 224, 224, 3), np.uint8)
    asked = Asked(bundle, graphs, "pixels", list(rows), batch_size=8)
    listed = contenders(asked)
    figures: dict[str, list[float]] = {"bare ONNX Runtime": []}
    p95_ms: list[float] = []
    for turn in range(TURNS):
        figures["bare ONNX Runtime"].append(rows_per_second(graphs / "model.onnx", BATCH_SIZES, seconds=BARE_S))
        for name, contender in list(listed.items()):
            try:
                with serving(contender, asked) as running:
                    loaded = send_load(
                        running.port,
                        running.requests,
                        connections=CONNECTIONS,
                        seconds=SECONDS,
                        warm_up_s=WARM_UP_S,
                    )
                    figures.setdefault(name, []).append(loaded.throughput)
                    if name == "tfpipe":
                        rate = SHARE * loaded.throughput
                        opened = send_load(running.port, running.requests, connections=256, seconds=OPEN_S, rate=rate)
                        p95_ms.append(opened.p95_ms)
            except RuntimeError as error:
                print(f"{name}: left out, it does not answer: {error}", flush=True)
                del listed[name]
                figures.pop(name, None)
        shown = ", ".join(f"{name} {values[-1]:.1f}" for name, values in figures.items())
        print(f"turn {turn + 1}/{TURNS}  images/s: {shown}; p95 at {SHARE:.0%}: {p95_ms[-1]:.1f} ms", flush=True)
    _conclude(figures, p95_ms)


def _conclude(figures: dict[str, list[float]], p95_ms: list[float]) -> None:
    bare = figures.pop("bare ONNX Runtime")
    for name, values in figures.items():
        shares = [value / limit for value, limit in zip(values, bare, strict=True)]
        print(f"{name}: {statistics.median(shares):.3f} of the bare loop, from {min(shares):.3f} to {max(shares):.3f}")
    best = max((name for name in figures if name != "tfpipe"), key=lambda name: statistics.median(figures[name]))
    beaten = [mine / theirs for mine, theirs in zip(figures["tfpipe"], figures[best], strict=True)]
    print(f"tfpipe over {best}, the best of the others: {statistics.median(beaten):.3f} (goal: above 1)")
    least_ms = 1e3 / statistics.median(bare)
    reachable = "" if 2 * least_ms < MOST_P95_MS else f"; one image alone takes {least_ms:.0f} ms here"
    print(f"p95 at {SHARE:.0%} of saturation: {statistics.median(p95_ms):.1f} ms (goal: {MOST_P95_MS:.0f}{reachable})")
    shares = [value / limit for value, limit in zip(figures["tfpipe"], bare, strict=True)]
    conclude("service_compute_bound", shares, goal=GOAL, unit="share of a bare ONNX Runtime loop")


if __name__ == "__main__":
    main()
