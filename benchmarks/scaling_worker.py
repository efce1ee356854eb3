"""One worker of the scaling benchmarks: steps of ResNet-50 on fixed tensors; prints the images/s of all workers.

With `--wait` it says `ready` when it is warm, and begins at a line from standard input: independent processes start
together.
"""

import argparse
import resource
import time

from benchmarks.synthetic import RandomPixels, build_loop, run_config, whole_batch
from tfpipe.distributed import join

WARM_UP_STEPS = 3


def main() -> None:
    options = read_options(__doc__)
    world = join()
    config = run_config("resnet50", size=options.size, batch_size=options.images * world.size, optimizer="sgd")
    source = RandomPixels(options.images, options.size)
    loop, _ = build_loop(config, source, world)
    loop.start_together()
    step, batch = loop.training_step.at(0), whole_batch(source)
    for _ in range(WARM_UP_STEPS):
        step(*batch, [0.0, 0.0], 0.01)[0].numpy()
    if options.wait:
        print("ready", flush=True)
        input()
    before = resource.getrusage(resource.RUSAGE_SELF)
    started = time.perf_counter()
    for _ in range(options.steps):
        step(*batch, [0.0, 0.0], 0.01)[0].numpy()
    seconds = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_SELF)
    if world.is_chief:
        processor_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        print(f"processor_share={processor_s / seconds:.3f}")
        print(f"images_per_second={options.steps * options.images * world.size / seconds:.3f}", flush=True)


def read_options(description: str | None) -> argparse.Namespace:
    """The command line of a worker."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--size", type=int, required=True, help="pixels of an image's side")
    parser.add_argument("--images", type=int, required=True, help="of one worker's step")
    parser.add_argument("--wait", action="store_true", help="say `ready`, and begin at a line from standard input")
    return parser.parse_args()


if __name__ == "__main__":
    main()
