"""On paper: the efficiency of many workers, from what a step computes and how fast its gradients travel.

    make bench NAME=scaling_model

A ring of n workers sends each worker's S bytes of gradients in 2 (n - 1) messages of S / n bytes, so that

    t_allreduce(n) = 2 (n - 1) (latency + S / (n * bandwidth))
    efficiency(n)  = t_compute / (t_compute + t_allreduce(n) - hidden),

where `bandwidth` is that of the slowest link of the ring (with several machines, the network card that the GPUs of a
machine share) and `hidden` what is sent while gradients are still computed. Source: Patarasuk and Yuan 2009, "Bandwidth
optimal all-reduce algorithms for clusters of workstations", J. Parallel Distrib. Comput. 69, section 4. Hidden is 0
here, so these are lower bounds: what overlaps comes on top. What they leave out: reading data, and the slowest of
n workers, for whom the others wait.

Latency, bandwidth and computing are measured here with two workers over Gloo, and the efficiency that follows is set
against the one that the same job shows. GPUs are not measured: their computing is what NVIDIA published for ResNet-50
on A100 with Horovod, mixed precision, 256 images a GPU (2,375 images/s, on eight 17,400; DeepLearningExamples,
TensorFlow/Classification/ConvNets/resnet50v1.5), their links those of the data sheets (NVLink 3: 300 GB/s a direction).
"""

import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from benchmarks.measure import conclude, median_s
from benchmarks.processes import figures_of, horovodrun
from benchmarks.scaling import SETTINGS
from benchmarks.synthetic import RandomPixels, build_loop, run_config, whole_batch
from tfpipe.distributed import join

SIZE, IMAGES = 128, 16
TURNS = 5
SMALL_BYTES = 4096
GPU_STEP_S = 256 / 2375
RESNET50_BYTES = 102e6


@dataclass(frozen=True)
class Link:
    """The slowest link of a ring.

    Attributes:
        latency_s: Seconds of an empty message.
        bytes_s: Bytes a second in one direction.
    """

    latency_s: float
    bytes_s: float


def allreduce_s(workers: int, size: float, link: Link) -> float:
    """Seconds of a ring allreduce of `size` bytes."""
    return 2 * (workers - 1) * (link.latency_s + size / (workers * link.bytes_s))


def efficiency(workers: int, compute_s: float, size: float, link: Link) -> float:
    """Share of the time that is spent computing, nothing hidden."""
    return compute_s / (compute_s + allreduce_s(workers, size, link))


def link_of(small_s: float, large_s: float, large_bytes: float) -> Link:
    """The link between two workers, from the times of two allreduces."""
    return Link(small_s / 2, large_bytes / (large_s - small_s))


def main() -> None:
    printed = horovodrun(2, "benchmarks.scaling_model", ["--worker"], SETTINGS)
    size = figures_of("gradient_bytes", printed)[0]
    found = []
    names = ("alone", "small", "large", "step")
    for alone, small, large, step in zip(*(figures_of(f"{name}_s", printed) for name in names), strict=True):
        link = link_of(small, large, size)
        expected, shown = efficiency(2, alone, size, link), alone / step
        print(
            f"here, 2 workers: computing {1e3 * alone:.0f} ms, latency {1e6 * link.latency_s:.0f} us, "
            f"{link.bytes_s / 1e9:.2f} GB/s: efficiency {expected:.3f} on paper, {shown:.3f} measured"
        )
        found.append((alone, link, shown / expected))
    compute_s = statistics.median(alone for alone, _, _ in found)
    ethernet = {
        "10 Gbit/s": Link(30e-6, 1.25e9),
        "100 Gbit/s": Link(10e-6, 12.5e9),
        "8 x 200 Gbit/s": Link(5e-6, 200e9),
    }
    print("\non paper, nothing hidden                                          8      64 workers")
    for name, link in ethernet.items():
        _row(f"workers as here, a machine each, {name}", compute_s, size, [link, link])
    nvlink = Link(5e-6, 300e9)
    for name, link in ethernet.items():
        _row(f"A100, 8 on a machine (NVLink), {name} between", GPU_STEP_S, RESNET50_BYTES, [nvlink, link])
        _row("  with gradients in 16 bits", GPU_STEP_S, RESNET50_BYTES / 2, [nvlink, link])
    print("published for 8 A100: 0.916, of which the model explains what communication takes\n")
    conclude("scaling_model", [ratio for _, _, ratio in found], goal=0.9, unit="efficiency measured over that on paper")


def _row(name: str, compute_s: float, size: float, links: list[Link]) -> None:
    shares = [efficiency(workers, compute_s, size, link) for workers, link in zip((8, 64), links, strict=True)]
    print(f"  {name:60s} {shares[0]:.3f}  {shares[1]:.3f}")


def work() -> None:
    """One worker: prints its times, the chief's, in turn."""
    world = join()
    config = run_config("resnet50", size=SIZE, batch_size=IMAGES * world.size, optimizer="sgd")
    source = RandomPixels(IMAGES, SIZE)
    loop, _ = build_loop(config, source, world)
    loop.start_together()
    step, alone, batch = loop.training_step.at(0), loop.training_step.alone(0), whole_batch(source)
    size = 4 * sum(int(tf.size(v.value)) for v in loop.parts.network.trainable_variables)
    bare = tf.function(lambda tensor: world.allreduce_sum([tensor])[0], reduce_retracing=True)
    small, large = tf.zeros(SMALL_BYTES // 4), tf.zeros(size // 4)
    actions: dict[str, tuple[Callable[[], Any], int]] = {
        "alone": (lambda: alone(*batch, [0.0, 0.0], 0.0)[0].numpy(), 3),
        "small": (lambda: bare(small)[0].numpy(), 20),
        "large": (lambda: bare(large)[0].numpy(), 5),
        "step": (lambda: step(*batch, [0.0, 0.0], 0.0)[0].numpy(), 3),
    }
    for action, _ in actions.values():
        action()
    if world.is_chief:
        print(f"gradient_bytes={size}", flush=True)
    for _ in range(TURNS):
        for name, (action, repeats) in actions.items():
            seconds = median_s(world, action, repeats)
            if world.is_chief:
                print(f"{name}_s={seconds:.6f}", flush=True)


if __name__ == "__main__":
    work() if "--worker" in sys.argv else main()
