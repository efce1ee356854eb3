"""What watching a run costs, as a share of the time that its steps take.

    make bench NAME=training_overhead

An epoch of small_cnn on 50,000 images of 32 x 32 (the size of CIFAR-10) in batches of 64 has 781 steps, here STEPS of
them, over two workers. Each observer is timed where the loop calls it, so that a slow minute of the machine does not
hide a hundredth: what comes once a step is counted for a step, what comes once an epoch is shared out over its 781, and
what comes once a run is only told. The clock inside the step is timed as a graph of its own. Metrics are averaged for
nothing: their sums travel with the gradients. The sentinel compares every 100 steps, as by default. To add an observer:
a line in `observed`.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import tensorflow as tf

from benchmarks.measure import conclude
from benchmarks.processes import figures_of, horovodrun
from benchmarks.synthetic import RandomPixels, build_loop, run_config
from tfpipe import tracking
from tfpipe.distributed import join
from tfpipe.training.checkpoint_writer import CheckpointWriter
from tfpipe.training.checkpoints import CheckpointFolder, TrainingState
from tfpipe.training.loop import TrainingLoop
from tfpipe.training.metrics_server import MetricsServer
from tfpipe.training.observers import Observer, StepRecord
from tfpipe.training.run import Tracked
from tfpipe.training.sentinel import DesyncSentinel
from tfpipe.training.step import moment_after
from tfpipe.training.telemetry import Telemetry

SIZE, BATCH = 32, 64
STEPS, STEPS_PER_EPOCH = 100, 781
TURNS = 5
# Of the time of a step.
LIMIT = 0.01


class Timed(Observer):
    """Another observer, and the seconds that it takes."""

    def __init__(self, inner: Observer) -> None:
        self._inner = inner
        self.step_s = self.epoch_s = self.once_s = 0.0

    def on_train_begin(self) -> None:
        # Among it telemetry's steps without communication, which the others' efficiency is told by.
        self.once_s += _seconds(self._inner.on_train_begin)

    def on_epoch_begin(self, epoch: int) -> None:
        self.epoch_s += _seconds(lambda: self._inner.on_epoch_begin(epoch))

    def on_step(self, record: StepRecord) -> None:
        self.step_s += _seconds(lambda: self._inner.on_step(record))

    def figures(self) -> dict[str, float]:
        found: dict[str, float] = {}
        self.epoch_s += _seconds(lambda: found.update(self._inner.figures()))
        return found

    def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
        self.epoch_s += _seconds(lambda: self._inner.on_epoch_end(epoch, metrics))

    def per_step_s(self) -> float:
        return self.step_s / STEPS + self.epoch_s / STEPS_PER_EPOCH


class StepTimes(Observer):
    """Seconds of each step by itself."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step(self, record: StepRecord) -> None:
        self.seconds.append(record.input_s + record.step_s)


def observed(loop: TrainingLoop, state: TrainingState, tracker: tracking.Tracker) -> dict[str, Observer]:
    """What is timed, by name."""
    return {
        "telemetry": Telemetry(loop, state),
        "sentinel": DesyncSentinel(loop.synchronized_variables, loop.world, every_steps=STEPS),
        "tracking": Tracked(tracker),
        **({"metrics server": MetricsServer("127.0.0.1", 1)} if loop.world.is_chief else {}),
    }


def clock_s(loop: TrainingLoop) -> float:
    """Seconds of the clock reading of a step, beside an empty graph of the same inputs."""
    gradients = [tf.zeros(variable.shape) for variable in loop.parts.network.trainable_variables]
    read = tf.function(lambda: moment_after(gradients))
    empty = tf.function(lambda: tf.stack([gradients[0][0, 0, 0, 0], 0.0]))
    costs = []
    for function in (read, empty):
        function()
        costs.append(statistics.median(_seconds(function) for _ in range(300)))
    return max(0.0, costs[0] - costs[1])


def main() -> None:
    printed = horovodrun(2, "benchmarks.training_overhead", ["--worker"])
    print("\n".join(line.partition(">:")[2] for line in printed.splitlines() if "turn " in line))
    shares = figures_of("share", printed)
    conclude("training_overhead", [LIMIT / share for share in shares], goal=1.0, unit="1 % over the share of a step")


def work() -> None:
    """One worker."""
    world = join()
    config = run_config("small_cnn", size=SIZE, batch_size=BATCH, optimizer="adamw")
    with tempfile.TemporaryDirectory() as folder:
        training = config.training.model_copy(update={"epochs": 1})
        where = {"output_dir": folder, "training": training}
        where["tracking"] = config.tracking.model_copy(update={"uri": f"sqlite:///{folder}/mlflow.db"})
        config = config.model_copy(update=where)
        tracker = tracking.MlflowTracker.start(config) if world.is_chief else tracking.NoTracker()
        loop, _ = build_loop(config, RandomPixels(STEPS * BATCH, SIZE), world)
        loop.start_together()
        clock = clock_s(loop)
        for turn in range(TURNS):
            state, times = TrainingState(), StepTimes()
            timed = {name: Timed(observer) for name, observer in observed(loop, state, tracker).items()}
            with CheckpointWriter(CheckpointFolder(Path(folder) / "checkpoints", keep=1)) as writer:
                loop.run(state, writer, [times, *timed.values()])
            step_s = statistics.median(times.seconds)
            costs = {name: observer.per_step_s() for name, observer in timed.items()} | {"clock": clock}
            if world.is_chief:
                told = ", ".join(f"{name} {1e6 * cost:.0f} us" for name, cost in costs.items())
                once_s = sum(observer.once_s for observer in timed.values())
                share = sum(costs.values()) / step_s
                turns = f"turn {turn + 1}/{TURNS}  step {1e3 * step_s:.1f} ms"
                print(f"{turns}; {told}, share={share:.6f}; once a run {once_s:.1f} s", flush=True)
        tracker.finish("FINISHED")


def _seconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


if __name__ == "__main__":
    work() if "--worker" in sys.argv else main()
