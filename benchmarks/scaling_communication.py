"""What 100 MB of gradients cost a step, against a bare allreduce of the same bytes, with two workers of a core each.

    make bench NAME=scaling_communication

Three times in one job, in turn: a step that sends nothing, a bare allreduce of one tensor of the gradients' size, a
whole step. The step should take no more than computing and 1.15 times the allreduce. Then the same with k micro-batches
to a step: what a micro-batch pays for communication should be a k-th.
"""

import statistics
import sys
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from benchmarks.measure import conclude, median_s
from benchmarks.processes import figures_of, horovodrun
from benchmarks.synthetic import RandomPixels, build_loop, run_config, whole_batch
from tfpipe.distributed import World, join
from tfpipe.settings import Config

SIZE, MICRO_BATCH = 8, 8
MICRO_BATCHES = (1, 2, 4)
TURNS, REPEATS = 7, 5
# Of the time of a bare allreduce.
ALLOWANCE = 1.15


def wide(input_shape: tuple[int, int, int], num_classes: int, config: Config) -> keras.Model:
    """25 million weights, 100 MB, that take little computing."""
    layers = [keras.layers.Flatten(), keras.layers.Dense(4915, "relu"), keras.layers.Dense(4915, "relu")]
    return keras.Sequential([keras.Input(input_shape), *layers, keras.layers.Dense(num_classes)])


def main() -> None:
    printed = horovodrun(2, "benchmarks.scaling_communication", ["--worker"], {"HOROVOD_CYCLE_TIME": "1"})
    costs: dict[int, float] = {}
    margins: dict[int, list[float]] = {}
    for pieces in MICRO_BATCHES:
        alone, allreduce, step = (figures_of(f"{name}_ms_{pieces}", printed) for name in ("alone", "allreduce", "step"))
        margins[pieces] = [(a + ALLOWANCE * r) / s for a, r, s in zip(alone, allreduce, step, strict=True)]
        costs[pieces] = statistics.median((s - a) / pieces for a, s in zip(alone, step, strict=True))
        print(
            f"{pieces} micro-batches: computing {statistics.median(alone):.0f} ms, bare allreduce "
            f"{statistics.median(allreduce):.0f} ms, step {statistics.median(step):.0f} ms; communication takes "
            f"{costs[pieces]:.0f} ms a micro-batch, {costs[1] / costs[pieces]:.2f} times less than without accumulation"
        )
    conclude(
        "scaling_communication", margins[1], goal=1.0, unit="computing and 1.15 bare allreduces over the time of a step"
    )


def work() -> None:
    """One worker."""
    world = join()
    for pieces in MICRO_BATCHES:
        actions = _actions(world, pieces)
        for action in actions.values():
            action()
        for _ in range(TURNS):
            for name, action in actions.items():
                milliseconds = 1e3 * median_s(world, action, REPEATS)
                if world.is_chief:
                    print(f"{name}_ms_{pieces}={milliseconds:.3f}", flush=True)


def _actions(world: World, pieces: int) -> dict[str, Callable[[], Any]]:
    images = MICRO_BATCH * pieces
    config = run_config(
        "benchmarks.scaling_communication:wide", size=SIZE, batch_size=images * world.size, optimizer="sgd",
        accumulation_steps=pieces,
    )  # fmt: skip
    source = RandomPixels(images, SIZE)
    loop, _ = build_loop(config, source, world)
    loop.start_together()
    step, alone = loop.training_step.at(0), loop.training_step.alone(0)
    batch = whole_batch(source)
    gradients = tf.zeros(sum(int(tf.size(v.value)) for v in loop.parts.network.trainable_variables))
    bare = tf.function(lambda tensor: world.allreduce_sum([tensor])[0])
    return {
        "alone": lambda: alone(*batch, [0.0, 0.0], 0.0)[0].numpy(),
        "allreduce": lambda: bare(gradients)[0].numpy(),
        "step": lambda: step(*batch, [0.0, 0.0], 0.0)[0].numpy(),
    }


if __name__ == "__main__":
    work() if "--worker" in sys.argv else main()
