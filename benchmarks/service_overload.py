"""Images/s of the service under ten times what it can do, over those that it reached; ResNet-50 INT8, for a minute.

    make bench NAME=service_overload

The server alone on one core with one thread, the generator (load.c) on the other. By turns a closed loop, for what it
can do, and an open loop at ten times that rate; each minute is compared with the loops before and after it, as machines
are faster at one time than at another. Every request must have an answer: 200, or 429 or 504 where it cannot be met;
and what is answered with 200 must be so within its deadline.
"""

import statistics

import numpy as np

from benchmarks.load import Loaded, send_load
from benchmarks.measure import conclude
from benchmarks.served_models import graphs_of, resnet50_bundle
from benchmarks.servers import Asked, serving, tfpipe

TIMES, GOAL, TURNS = 10.0, 0.9, 3
PEAK_S, MINUTE_S, WARM_UP_S = 15.0, 60.0, 3.0
DEADLINE_MS = 5000.0
BUSY, CONNECTIONS = 16, 2048
EXPECTED = {"200", "429", "504"}
# An answer of the last moment still has its way back before it.
SLACK_MS = 250.0


def main() -> None:
    bundle = resnet50_bundle()
    rows = np.random.default_rng(0).integers(0, 256, (4, 1, 224, 224, 3), np.uint8)
    asked = Asked(bundle, graphs_of(bundle, "int8", preprocess=True), "pixels", list(rows), batch_size=8)
    with serving(tfpipe(asked, TIMEOUT_MS=str(int(DEADLINE_MS))), asked) as running:

        def peak() -> float:
            found = send_load(running.port, running.requests, connections=BUSY, seconds=PEAK_S, warm_up_s=WARM_UP_S)
            print(f"closed loop: {found}", flush=True)
            return found.throughput

        shares, before = [], peak()
        for _ in range(TURNS):
            loaded = send_load(
                running.port,
                running.requests,
                connections=CONNECTIONS,
                seconds=MINUTE_S,
                warm_up_s=WARM_UP_S,
                rate=TIMES * before,
            )
            print(f"{TIMES:g} times that: {loaded}; by status: {dict(loaded.statuses)}", flush=True)
            problems = problems_of(loaded)
            for problem in problems:
                print(problem)
            after = peak()
            # Without an answer there is no share worth telling.
            shares.append(0.0 if problems else loaded.throughput / statistics.mean((before, after)))
            before = after
    conclude("service_overload", shares, goal=GOAL, unit="share of the images/s without overload")


def problems_of(loaded: Loaded) -> list[str]:
    """What must not be of a load that is too much."""
    problems = []
    if loaded.unanswered:
        problems.append(f"expected every request to be answered, {loaded.unanswered} were not")
    others = {status: count for status, count in loaded.statuses.items() if status not in EXPECTED}
    if others:
        problems.append(f"expected {', '.join(sorted(EXPECTED))}, received {others}")
    if loaded.max_ms > DEADLINE_MS + SLACK_MS:
        problems.append(f"expected answers within {DEADLINE_MS:.0f} ms, the longest took {loaded.max_ms:.0f} ms")
    return problems


if __name__ == "__main__":
    main()
