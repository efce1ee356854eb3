"""Memory of a training step that keeps all activations over that of one that recomputes them.

    make bench NAME=rematerialization

Growth of a fresh process's resident set over one step: small_cnn at 64 x 64, a batch of 64, one process.
Turns alternate.
"""

import resource
import subprocess
import sys

import numpy as np

from benchmarks.measure import alternate, conclude, ratios
from benchmarks.synthetic import RandomPixels, build_loop, run_config
from tfpipe.data.pipeline import training_batches
from tfpipe.distributed import World

TURNS = 3


def growth_mb(mode: str) -> float:
    """In a process of its own: a resident set's peak never falls again."""
    command = [sys.executable, "-m", "benchmarks.rematerialization", mode]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def measure(mode: str) -> float:
    config = run_config("small_cnn", size=64, batch_size=64, optimizer="sgd")
    training = config.training.model_copy(update={"rematerialization": mode})
    config = config.model_copy(update={"training": training})
    loop, reader = build_loop(config, RandomPixels(64, 64), World())
    step = loop.training_step.at(0)
    batch = next(training_batches(reader, batch_size=64, seed=0, epoch=0, world=World()))
    # oneDNN's and TensorFlow's own pages come with the first step, of one image.
    step(*[np.asarray(part)[:1] for part in batch[:4]], 0.0, [0.0, 0.0], 0.01)[0].numpy()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step(*batch, [0.0, 0.0], 0.01)[0].numpy()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def main() -> None:
    figures = alternate({mode: lambda mode=mode: growth_mb(mode) for mode in ("none", "segments")}, repeats=TURNS)
    conclude("rematerialization_memory", ratios(figures, "none", "segments"), goal=1.2, unit="ratio of MB")


if __name__ == "__main__":
    print(measure(sys.argv[1])) if len(sys.argv) > 1 else main()
