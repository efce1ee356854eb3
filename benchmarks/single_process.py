"""Images per second of our training loop over those of a bare model.fit, on the same network and tensors.

    make bench NAME=single_process

One process, small_cnn at 32 x 32, batches of 64, AdamW; both are given the same float32 arrays in memory.
Turns alternate.
"""

import time

import keras
import numpy as np
import tensorflow as tf

from benchmarks.measure import alternate, conclude, ratios
from benchmarks.synthetic import RandomPixels, build_loop, run_config
from tfpipe.data.pipeline import training_batches
from tfpipe.distributed import World

SAMPLES = 4096
BATCH_SIZE = 64
TURNS = 7


def main() -> None:
    source = RandomPixels(SAMPLES, 32)
    config = run_config("small_cnn", size=32, batch_size=BATCH_SIZE, optimizer="adamw")
    loop, reader = build_loop(config, source, World())
    step = loop.training_step.at(0)

    bare = build_loop(config, source, World())[0].parts
    inputs = keras.Input((32, 32, 3))
    fitted = keras.Model(inputs, bare.network(bare.preprocessing.normalized(inputs)))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    fitted.compile(keras.optimizers.AdamW(0.001), loss, metrics=["accuracy"])
    images, labels = source.pixels.astype(np.float32), np.arange(SAMPLES) % 10

    def ours() -> float:
        started = time.perf_counter()
        for batch in training_batches(reader, batch_size=BATCH_SIZE, seed=0, epoch=0, world=World()):
            sums, *_ = step(*batch, [0.0, 0.0], 0.001)
            sums.numpy()
        return SAMPLES / (time.perf_counter() - started)

    def fit() -> float:
        started = time.perf_counter()
        fitted.fit(images, labels, batch_size=BATCH_SIZE, epochs=1, verbose=0)
        return SAMPLES / (time.perf_counter() - started)

    # Tracing, caching and oneDNN's first choice of kernels are not what is compared.
    ours()
    fit()
    figures = alternate({"tfpipe": ours, "fit": fit}, repeats=TURNS)
    conclude("single_process_vs_fit", ratios(figures, "tfpipe", "fit"), goal=0.97, unit="ratio of images/s")


if __name__ == "__main__":
    tf.get_logger().setLevel("ERROR")
    main()
