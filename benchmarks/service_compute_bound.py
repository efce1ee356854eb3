"""Images/s of the service with ResNet-50 INT8 over those of a bare ONNX Runtime loop on the same core, and its peers.

    make bench NAME=service_compute_bound

Pixels of 224 x 224 by the protocol's binary extension, every peer by its fastest documented body; every server alone
on one core with one thread, the generator (load.c) on the other; by turns. Then 70 % of what was reached, at random
moments (an open loop), for its 95th percentile, beside that of the model alone: rows at such moments, run one by one in
the time that one takes in the bare loop, with nothing between them. Making the model takes some minutes the first time.
"""

import random
import statistics
from dataclasses import dataclass

import numpy as np

from benchmarks.bare import rows_per_second
from benchmarks.load import Loaded, send_load
from benchmarks.measure import conclude
from benchmarks.served_models import graphs_of, resnet50_bundle
from benchmarks.servers import OURS, Asked, Running, contenders, in_turns

CONNECTIONS = 16
TURNS = 3
# Answers come eight at a time, twice a second: a short turn would count one batch more or less.
SECONDS, WARM_UP_S, BARE_S, OPEN_S = 24.0, 2.0, 5.0, 10.0
BATCH_SIZES = (1, 4, 8)
GOAL = 0.95
SHARE, MOST_P95_MS = 0.7, 50.0
SIMULATED_ROWS = 200_000


@dataclass(frozen=True)
class Measured:
    """A server between two turns of the bare loop.

    Attributes:
        bare: Rows/s of the bare loop, the mean of just before and just after: machines change within a minute.
        busy: The server at saturation.
        open: Of ours, at a share of that.
    """

    bare: float
    busy: Loaded
    open: Loaded | None

    def __str__(self) -> str:
        text = f"{self.busy}; the bare loop {self.bare:.1f}/s"
        return text if self.open is None else f"{text}; at {SHARE:.0%}: {self.open}"

    @property
    def share(self) -> float:
        return self.busy.throughput / self.bare


def main() -> None:
    bundle = resnet50_bundle()
    graphs = graphs_of(bundle, "int8", preprocess=True)
    rows = np.random.default_rng(0).integers(0, 256, (4, 1, 224, 224, 3), np.uint8)
    asked = Asked(bundle, graphs, "pixels", list(rows), batch_size=8)

    rates = {size: rows_per_second(graphs / "model.onnx", (size,), seconds=BARE_S) for size in BATCH_SIZES}
    # Once: the best of several each time would be the one that the machine happened to favour.
    best = max(rates, key=lambda size: rates[size])
    print(f"the bare loop at its best batch size of {', '.join(map(str, BATCH_SIZES))}: {best}", flush=True)

    def bare(running: Running) -> float:
        with running.stopped():
            return rows_per_second(graphs / "model.onnx", (best,), seconds=BARE_S)

    def measure(name: str, running: Running) -> Measured:
        requests, before = running.requests, bare(running)
        busy = send_load(running.port, requests, connections=CONNECTIONS, seconds=SECONDS, warm_up_s=WARM_UP_S)
        beside = (before + bare(running)) / 2
        if name != OURS:
            return Measured(beside, busy, None)
        rate = SHARE * busy.throughput
        return Measured(beside, busy, send_load(running.port, requests, connections=256, seconds=OPEN_S, rate=rate))

    _conclude(in_turns(contenders(asked), asked, measure, turns=TURNS))


def _conclude(found: dict[str, list[Measured]]) -> None:
    shares = {name: [one.share for one in measured] for name, measured in found.items()}
    for name, values in shares.items():
        print(f"{name}: {statistics.median(values):.3f} of the bare loop, from {min(values):.3f} to {max(values):.3f}")
    best = max((name for name in shares if name != OURS), key=lambda name: statistics.median(shares[name]))
    beaten = [mine / theirs for mine, theirs in zip(shares[OURS], shares[best], strict=True)]
    print(f"{OURS} over {best}, the best of the others: {statistics.median(beaten):.3f} (goal: above 1)")
    p95_ms = statistics.median(one.open.p95_ms for one in found[OURS] if one.open)
    row_ms = 1e3 / statistics.median(one.bare for one in found[OURS])
    alone_ms = alone_p95_rows(SHARE) * row_ms
    print(f"p95 at {SHARE:.0%} of saturation: {p95_ms:.1f} ms (goal: {MOST_P95_MS:.0f} where the model allows it)")
    print(f"the model alone: {alone_ms:.1f} ms, where one image takes {row_ms:.1f} ms")
    conclude("service_compute_bound", shares[OURS], goal=GOAL, unit="share of a bare ONNX Runtime loop")


def alone_p95_rows(load: float) -> float:
    """95th percentile of the time from a row's arrival to its end, in the time that a row takes.

    Rows arrive at random moments (Poisson), take equally long and run one by one: the queue M/D/1, simulated.

    Args:
        load: Rows that arrive in the time of one, below 1.
    """
    drawn = random.Random(0)
    now, free, times = 0.0, 0.0, []
    for _ in range(SIMULATED_ROWS):
        now += drawn.expovariate(load)
        free = max(now, free) + 1.0
        times.append(free - now)
    return statistics.quantiles(times, n=20)[-1]


if __name__ == "__main__":
    main()
