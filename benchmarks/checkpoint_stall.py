"""How long a checkpoint of a 100 MB model keeps training from its next step, while it is written in the background.

    make bench NAME=checkpoint_stall

ResNet-50 (102 MB of weights) with SGD and momentum, so 205 MB are saved. The figure is the time
in `save`; how much slower the steps are that are computed beside the writing is printed too.
"""

import statistics
import tempfile
import time
from pathlib import Path

from benchmarks.measure import conclude
from benchmarks.synthetic import RandomPixels, build_loop, run_config, whole_batch
from tfpipe.distributed import World
from tfpipe.training.checkpoint_writer import CheckpointWriter
from tfpipe.training.checkpoints import CheckpointFolder, TrainingState

SIZE, BATCH = 64, 8
SAVES, STEPS_BETWEEN = 9, 6
LIMIT_S = 0.1


def main() -> None:
    config = run_config("resnet50", size=SIZE, batch_size=BATCH, optimizer="sgd")
    source = RandomPixels(BATCH, SIZE)
    loop, _ = build_loop(config, source, World())
    step = loop.training_step.at(0)
    batch = whole_batch(source)

    def seconds_of_steps() -> float:
        started = time.perf_counter()
        for _ in range(STEPS_BETWEEN):
            step(*batch, [0.0, 0.0], 0.01)[0].numpy()
        return (time.perf_counter() - started) / STEPS_BETWEEN

    seconds_of_steps()
    stalls, beside, undisturbed = [], [], []
    with tempfile.TemporaryDirectory() as folder, CheckpointWriter(CheckpointFolder(Path(folder), keep=2)) as writer:
        writer.prepare(loop.variables())
        for number in range(SAVES):
            undisturbed.append(seconds_of_steps())
            started = time.perf_counter()
            writer.save(loop.variables(), TrainingState(step=number))
            stalls.append(time.perf_counter() - started)
            beside.append(seconds_of_steps())
            # The next save must find nothing to wait for: a checkpoint a minute is many already.
            writer.finish()
            print(
                f"save {number + 1}/{SAVES}: training waited {1e3 * stalls[-1]:.1f} ms; a step took "
                f"{1e3 * beside[-1]:.0f} ms beside the writing, {1e3 * undisturbed[-1]:.0f} ms without",
                flush=True,
            )
    print(f"steps beside the writing: {statistics.median(beside) / statistics.median(undisturbed):.2f} times as long")
    conclude("checkpoint_stall", [LIMIT_S / stall for stall in stalls], goal=1.0, unit="100 ms over the time waited")


if __name__ == "__main__":
    main()
