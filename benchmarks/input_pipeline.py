"""Images per second that the input pipeline alone reads from JPEG files, over those that training the small net takes.

    make bench NAME=input_pipeline

Uncached: every image is read, decoded and resized anew, as in a first epoch. 64 x 64 JPEG files, small_cnn at 32 x 32.
"""

import tempfile
import time
from pathlib import Path

from PIL import Image

from benchmarks.measure import alternate, conclude, ratios
from benchmarks.synthetic import RandomPixels, build_loop, run_config
from tfpipe.data.pipeline import RowReader, training_batches
from tfpipe.data.sources import open_source
from tfpipe.distributed import World

SAMPLES = 2048
BATCH_SIZE = 64
TURNS = 7


def main() -> None:
    config = run_config("small_cnn", size=32, batch_size=BATCH_SIZE, optimizer="adamw")
    pixels = RandomPixels(SAMPLES, 64)
    loop, cached = build_loop(config, pixels, World())
    step = loop.training_step.at(0)
    with tempfile.TemporaryDirectory() as folder:
        for index in range(SAMPLES):
            path = Path(folder) / pixels.labels[pixels.label(index)] / f"{index}.jpg"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(pixels.pixels[index]).save(path, quality=90)
        files = RowReader(open_source(folder), loop.parts.preprocessing.resize, max_pixels=10**8, cache="none")

        def feed() -> float:
            started = time.perf_counter()
            for _ in training_batches(files, batch_size=BATCH_SIZE, seed=0, epoch=0, world=World()):
                pass
            return SAMPLES / (time.perf_counter() - started)

        def consume() -> float:
            started = time.perf_counter()
            for batch in training_batches(cached, batch_size=BATCH_SIZE, seed=0, epoch=0, world=World()):
                step(*batch, [0.0, 0.0], 0.001)[0].numpy()
            return SAMPLES / (time.perf_counter() - started)

        feed()
        consume()
        figures = alternate({"feed": feed, "consume": consume}, repeats=TURNS)
    conclude("input_pipeline_vs_training", ratios(figures, "feed", "consume"), goal=2.0, unit="ratio of images/s")


if __name__ == "__main__":
    main()
