"""Where the time of a run goes, worker by worker, and how its gradients and memory fare; figures of each epoch."""

import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from tfpipe.data.pipeline import Batch
from tfpipe.training.checkpoints import TrainingState
from tfpipe.training.loop import TrainingLoop
from tfpipe.training.observers import Observer, StepRecord
from tfpipe.training.unfreezing import stage

# What the time of a worker is made of; each NAME is a metric NAME_share.
SHARES = ("input", "compute", "communication", "other")

# A second of steps is enough for a mean; fewer than three are not, more than fifty would say no more.
_BASELINE_S, _LEAST_STEPS, _MOST_STEPS = 1.0, 3, 50


@dataclass(frozen=True)
class _Alone:
    """Seconds of a step that is taken without the other workers, and of what it does after the gradients."""

    step_s: float
    update_s: float


@dataclass(frozen=True)
class WorkerTimes:
    """Where the steps of one worker spent an epoch.

    Attributes:
        wall_s: Seconds from the first to the end of the last.
        input_s: Waiting for samples.
        compute_s: Computing, communication that was hidden behind it included.
        communication_s: Communication that was not hidden, and waiting for slower workers.
        alone_ratio: Seconds that the steps would have taken without communication, over those that they took; NaN where
            that was not measured.
    """

    wall_s: float
    input_s: float
    compute_s: float
    communication_s: float
    alone_ratio: float

    def shares(self) -> dict[str, float]:
        """Shares of the wall time; they add up to 1."""
        parts = {"input": self.input_s, "compute": self.compute_s, "communication": self.communication_s}
        # Two clocks: that of the parts may be ahead by microseconds.
        wall_s = max(self.wall_s, sum(parts.values()), 1e-9)
        shares = {f"{name}_share": seconds / wall_s for name, seconds in parts.items()}
        return shares | {"other_share": 1.0 - sum(shares.values())}


class Telemetry(Observer):
    """Adds to the metrics of an epoch what docs/tracking.md lists.

    Args:
        loop: What is watched.
        state: Says which epoch comes first.
    """

    def __init__(self, loop: TrainingLoop, state: TrainingState) -> None:
        self._loop, self._state = loop, state
        self._config, self._world = loop.config, loop.world
        self._alone: dict[int, _Alone] = {}
        self._records: list[tuple[StepRecord, float]] = []
        self._started_s = 0.0
        self._is_traced: set[int] = set()
        self._stage = 0

    def on_train_begin(self) -> None:
        """Measure what a worker reaches by itself."""
        self._measure_alone(self._state.epoch)

    def on_epoch_begin(self, epoch: int) -> None:
        """Begin anew; measure again where more layers train than before."""
        self._measure_alone(epoch)
        self._stage = stage(self._config.model, epoch)
        self._records = []
        self._started_s = time.perf_counter()

    def on_step(self, record: StepRecord) -> None:
        """Keep it with the time at which it was done."""
        self._records.append((record, time.perf_counter()))

    def figures(self) -> dict[str, float]:
        """Figures of the epoch; every worker asks the others."""
        if not self._records:
            return {}
        everyone = self._world.gather_objects((astuple(self._times()), _memory_peak_bytes(), _gpu_memory_peak_bytes()))
        workers = [WorkerTimes(*times) for times, *_ in everyone]
        return {
            **time_figures(workers),
            **self._gradient_figures(),
            "memory_peak_bytes": max(memory for _, memory, _ in everyone),
            **({"gpu_memory_peak_bytes": max(gpu for *_, gpu in everyone)} if everyone[0][2] else {}),
        }

    def _times(self) -> WorkerTimes:
        records, started_s = self._records, self._started_s
        if self._stage not in self._is_traced and len(records) > 1:
            # The first step of all makes the graph; counted, it would be most of a short epoch.
            started_s, records = records[0][1], records[1:]
        self._is_traced.add(self._stage)
        # The rest of an epoch is a shorter step, to which the time alone does not apply.
        full = [record for record, _ in records if record.samples == max(r.samples for r, _ in records)]
        input_s, step_s = sum(r.input_s for r, _ in records), sum(r.step_s for r, _ in records)
        alone = self._alone.get(self._stage, _Alone(math.nan, 0.0))
        communication_s = sum(_clipped(r.after_gradients_s - alone.update_s, r.step_s) for r, _ in records)
        return WorkerTimes(
            wall_s=records[-1][1] - started_s,
            input_s=input_s,
            compute_s=step_s - communication_s,
            communication_s=communication_s,
            alone_ratio=sum(r.input_s + alone.step_s for r in full) / sum(r.input_s + r.step_s for r in full),
        )

    def _gradient_figures(self) -> dict[str, float]:
        norms = np.array([record.gradient_norm for record, _ in self._records])
        applied = norms[np.isfinite(norms)]
        figures = {
            "gradient_norm": float(applied.mean()) if len(applied) else math.nan,
            "gradient_norm_max": float(applied.max()) if len(applied) else math.nan,
            "gradient_norm_p95": float(np.percentile(applied, 95)) if len(applied) else math.nan,
        }
        if self._loop.optimizer.scaled:
            figures["loss_scale"] = float(self._loop.optimizer.loss_scale.numpy())
            figures["skipped_steps"] = float(len(norms) - len(applied))
        return figures

    def _measure_alone(self, epoch: int) -> None:
        """Steps without reduction, all workers at the same time, once for each stage of unfreezing."""
        key = stage(self._config.model, epoch)
        if self._world.size == 1 or key in self._alone:
            return
        kept = [(variable, variable.numpy()) for group in self._loop.variables().values() for variable in group]
        step, batch = self._loop.training_step.alone(epoch), self._invented_batch()

        def seconds() -> tuple[float, float]:
            started = time.time()
            *_, ready = step(*batch, [0.0, 0.0], 0.0)
            ended = time.time()
            return ended - started, ended - float(ready[0])

        seconds()
        once_s, _ = seconds()
        # As many on every worker, and from the same moment on: they share the machine in training too.
        count = self._world.broadcast_object(int(np.clip(_BASELINE_S / once_s, _LEAST_STEPS, _MOST_STEPS)))
        self._alone[key] = _Alone(*np.mean([seconds() for _ in range(count)], axis=0).tolist())
        # Training is as if this had not been.
        for variable, value in kept:
            variable.assign(value)

    def _invented_batch(self) -> Batch:
        size = math.ceil(self._config.training.batch_size / self._world.size)
        return self._loop.example_batch(size)


def time_figures(workers: Sequence[WorkerTimes]) -> dict[str, float]:
    """Shares of the time, by worker where there are several; efficiency; who was waited for.

    Args:
        workers: In rank order.
    """
    shares = [worker.shares() for worker in workers]
    figures = {name: float(np.mean([share[name] for share in shares])) for name in shares[0]}
    if len(workers) == 1:
        return figures
    for rank, share in enumerate(shares):
        figures |= {f"rank_{rank}/{name}": value for name, value in share.items()}
    # Throughput of all over the sum of what each reached by itself: all take a step in the same time.
    figures["scaling_efficiency"] = len(workers) / sum(1.0 / worker.alone_ratio for worker in workers)
    figures["slowest_rank"] = float(np.argmax([worker.input_s + worker.compute_s for worker in workers]))
    return figures


def communication_shares(metrics: Mapping[str, float]) -> dict[int, float]:
    """Share of an epoch's time in communication, by rank; empty where the epoch has no steps."""
    by_rank = worker_shares(metrics)
    return {rank: shares["communication"] for rank, shares in by_rank.items()}


def worker_shares(metrics: Mapping[str, float]) -> dict[int, dict[str, float]]:
    """Shares of an epoch's time by rank and name ("input", "compute", "communication", "other")."""
    if "rank_0/input_share" not in metrics:
        return {0: {name: metrics[f"{name}_share"] for name in SHARES}} if "input_share" in metrics else {}
    shares: dict[int, dict[str, float]] = {}
    while f"rank_{len(shares)}/input_share" in metrics:
        rank = len(shares)
        shares[rank] = {name: metrics[f"rank_{rank}/{name}_share"] for name in SHARES}
    return shares


def _clipped(seconds: float, most: float) -> float:
    """Seconds between 0 and the time of the step: a clock may have been set in between."""
    return min(max(seconds, 0.0), most)


def _memory_peak_bytes() -> float:
    """The most memory that this process held so far. getrusage would count that of the process that started it."""
    found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"), re.MULTILINE)
    return float(found[1]) * 1024 if found else math.nan


def _gpu_memory_peak_bytes() -> float:
    """The most that TensorFlow held on this worker's GPU so far; 0 where there is none."""
    gpus = tf.config.list_logical_devices("GPU")
    return float(tf.config.experimental.get_memory_info("GPU:0")["peak"]) if gpus else 0.0
