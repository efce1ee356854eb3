"""What watching for drift costs a request: the same engine asked with and without it.

    make bench NAME=drift_cost

A PNG of 28 x 28 is decoded, preprocessed and answered by a model that computes next to nothing, on one thread; the
window is full, as it is a minute after a busy service has started. The value is the throughput with the watch over that
without. What a picture that goes into the window costs is printed beside it.
"""

import io
import time
from collections.abc import Callable

import numpy as np
from PIL import Image

from benchmarks.measure import alternate, conclude, median_of, ratios
from benchmarks.served_models import TINY_SIDE, tiny_bundle
from serving.drift import DriftWatch
from serving.engine import Engine, Row
from serving.source import fetch_bundle
from tfpipe.core.observed import CONFIDENCE, IMAGE_FEATURES, LABEL, Answers, image_numbers
from tfpipe.core.statistics import Statistics, of_categories, of_numbers

TURNS, RUNS, ASKED = 7, 20, 100
ROWS = 1000
GOAL = 0.98
WITHOUT, WITH = "without, ms", "with, ms"
_LARGE = 1024


def main() -> None:
    folder = tiny_bundle()
    engine = Engine.open(
        fetch_bundle(str(folder), registered_model=None, cache_dir=folder),
        precision="fp32", provider="cpu", threads=1, max_batch_size=8, max_image_pixels=10**6, max_text_chars=1,
    )  # fmt: skip
    watch = watch_of(engine)
    fill(watch)
    figures = alternate(
        {
            WITHOUT: median_of(asking(engine, None), runs=RUNS),
            WITH: median_of(asking(engine, watch), runs=RUNS),
        },
        repeats=TURNS,
    )
    for side in (TINY_SIDE, _LARGE):
        print(f"a picture of {side} x {side} that goes into the window: {microseconds_of_a_row(engine, side):.1f} µs")
    conclude("drift_cost", ratios(figures, WITHOUT, WITH), goal=GOAL, unit="requests/s with the watch over without")


def asking(engine: Engine, watch: DriftWatch | None) -> Callable[[], object]:
    file = io.BytesIO()
    Image.fromarray(picture(TINY_SIDE)).save(file, "PNG")
    content = file.getvalue()

    def ask() -> None:
        engine.drift = watch
        for _ in range(ASKED):
            engine.run(engine.prepare(content, {}).rows)

    return ask


def microseconds_of_a_row(engine: Engine, side: int) -> float:
    """Of a picture and its answer, while the window fills."""
    watch, pixels = watch_of(engine), picture(side)
    rows = [Row(np.full(len(engine.labels), 0.1, np.float32))]
    started = time.perf_counter()
    for _ in range(ROWS):
        watch.received(pixels, ())
        watch.answered(rows)
    return (time.perf_counter() - started) / ROWS * 1e6


def watch_of(engine: Engine) -> DriftWatch:
    numbers = np.array([image_numbers(picture(TINY_SIDE, seed)) for seed in range(200)])
    inputs = [of_numbers(name, "inputs", column) for name, column in zip(IMAGE_FEATURES, numbers.T, strict=True)]
    confidence = of_numbers(CONFIDENCE, "predictions", np.linspace(0.1, 1, 200))
    label, _ = of_categories(LABEL, "predictions", engine.labels, [20] * len(engine.labels))
    return DriftWatch(Statistics("", "", (*inputs, confidence, label)), engine.labels, Answers(), rows=ROWS)


def fill(watch: DriftWatch) -> None:
    for _ in range(2 * ROWS):
        watch.received(picture(TINY_SIDE), ())
        watch.answered([Row(np.full(10, 0.1, np.float32))])


def picture(side: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3)).astype(np.uint8)


if __name__ == "__main__":
    main()
