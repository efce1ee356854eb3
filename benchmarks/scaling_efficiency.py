"""Images per second of two Horovod workers of one core each, over what the machine gives to two processes at all.

    make bench NAME=scaling_efficiency

ResNet-50 at 128 x 128, SGD with momentum, 16 images a worker. The ceiling is two plain processes that know nothing of
each other, on the same cores at the same time. Beside them, one plain process with two threads: a worker a core must be
worth its trouble. Turns alternate; with the start of their processes they take some ten minutes.
"""

import statistics

from benchmarks.measure import alternate, conclude, ratios
from benchmarks.scaling import plain_processes, two_workers

TURNS = 3
GOAL = 0.90


def main() -> None:
    figures = alternate(
        {
            "two workers": two_workers,
            "two plain processes": lambda: plain_processes(2, cores=1),
            "one process of two threads": lambda: plain_processes(1, cores=2),
        },
        repeats=TURNS,
    )
    over_threads = ratios(figures, "two workers", "one process of two threads")
    print(
        f"over one process of two threads: median {statistics.median(over_threads):.3f}, from {min(over_threads):.3f}"
    )
    conclude(
        "scaling_efficiency", ratios(figures, "two workers", "two plain processes"), goal=GOAL, unit="ratio of images/s"
    )


if __name__ == "__main__":
    main()
