"""A search of 12 trials on the digits classifier, against its goal of five minutes.

    make bench NAME=search

The classifier is trained here. What counts is the whole conversion: graphs, SavedModel and report too.
"""

import re
import tempfile
import time
from pathlib import Path

import tensorflow as tf

from benchmarks.measure import conclude
from benchmarks.trained_digits import table_of_trials, train_digits
from tfpipe.convert.pipeline import convert
from tfpipe.convert.search import Budget

TRIALS, MOST_S = 12, 300.0


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = train_digits(folder)
        started = time.perf_counter()
        result = convert(run, output=folder / "bundle", search=Budget(TRIALS, max_s=2 * MOST_S))
        took_s = time.perf_counter() - started
        table = table_of_trials(folder / "bundle")
    print(table)
    best = result.bundle.executions()[0]
    print(f"chosen: {best.title}, {best.latency_ms['1']['p50']:.3f} ms for one row; {took_s:.0f} s")
    trials = len(re.findall(r"^\| (?:fp32|fp16|int8)", table, re.MULTILINE))
    # Where there is one provider and recipes pass at once, fewer are left to try.
    print(f"{trials} trials")
    conclude("search", [MOST_S / (took_s * TRIALS / trials)], goal=1.0, unit="5 minutes over the time of 12 trials")


if __name__ == "__main__":
    tf.get_logger().setLevel("ERROR")
    main()
