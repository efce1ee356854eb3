"""One worker of the scaling benchmark: steps of ResNet-50 on fixed tensors; prints the images/s of all workers."""

import sys
import time

import numpy as np

from benchmarks.synthetic import RandomPixels, build_loop, run_config
from tfpipe.data.pipeline import Batch
from tfpipe.distributed import join
from tfpipe.preprocessing.layers import DRAWS

SIZE = 128
LOCAL_BATCH = 16
WARM_UP_STEPS = 3


def main(steps: int) -> None:
    world = join()
    config = run_config("resnet50", size=SIZE, batch_size=LOCAL_BATCH * world.size, optimizer="sgd")
    source = RandomPixels(LOCAL_BATCH, SIZE)
    loop, _ = build_loop(config, source, world)
    loop.start_together()
    step = loop.training_step.at(0)
    batch = Batch(
        source.pixels.astype(np.float32),
        np.arange(LOCAL_BATCH, dtype=np.int32) % 10,
        np.ones(LOCAL_BATCH, np.float32),
        np.zeros((LOCAL_BATCH, len(DRAWS)), np.float32),
        np.float32(0),
    )
    for _ in range(WARM_UP_STEPS):
        step(*batch, [0.0, 0.0], 0.01)[0].numpy()
    started = time.perf_counter()
    for _ in range(steps):
        step(*batch, [0.0, 0.0], 0.01)[0].numpy()
    if world.is_chief:
        print(f"images_per_second={steps * LOCAL_BATCH * world.size / (time.perf_counter() - started):.3f}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
