"""Training that goes on when workers are lost or join: what is kept to go back to, and who is waited for."""

import copy
import os
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import IO, Any

import numpy as np

from tfpipe.distributed import Regroup, World, WorldChanges
from tfpipe.settings import Config
from tfpipe.training.checkpoints import TrainingState, named_arrays
from tfpipe.training.observers import Observer, StepRecord

_BEAT_S = 1.0
# Reads a byte a second from the worker; kills it when none comes for so long, and ends when the worker does.
_WATCHDOG = """
import os, select, signal, sys
worker, patience_s = int(sys.argv[1]), float(sys.argv[2])
while True:
    ready, _, _ = select.select([0], [], [], patience_s)
    if not ready:
        os.kill(worker, signal.SIGKILL)
        break
    if not os.read(0, 4096):
        break
"""


class Commit:
    """The newest state to go back to, in this worker's memory; empty at first.

    Attributes:
        config: The run, as the first chief read it: the time in `output_dir` is its.
        arrays: Every variable, as in a checkpoint.
        state: The rest.
    """

    def __init__(self) -> None:
        self.config: Config | None = None
        self.arrays: dict[str, np.ndarray] = {}
        self.state: TrainingState | None = None

    def take(self, variables: Mapping[str, Sequence[Any]], state: TrainingState) -> None:
        """Copy variables and state."""
        self.arrays, self.state = named_arrays(variables), copy.deepcopy(state)


class CommitEverySteps(Observer):
    """Commits, and lets workers in that wait to join.

    Args:
        loop: A TrainingLoop.
        state: Its state, which it brings up to date in place.
        commit: Where to.
        world: The workers.
        changes: Tells the chief of workers that come and go.
        every_steps: Updates between two commits: what a lost worker costs at most.
    """

    def __init__(
        self, loop: Any, state: TrainingState, commit: Commit, world: World, changes: WorldChanges, *, every_steps: int
    ) -> None:
        self._loop, self._state, self._commit, self._every = loop, state, commit, every_steps
        self._world, self._changes = world, changes

    def on_train_begin(self) -> None:
        self._take()

    def on_step(self, record: StepRecord) -> None:
        if record.step % self._every == 0:
            self._take()

    def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
        self._take()

    def _take(self) -> None:
        # The chief's copy is what all go on from, and moving statistics are everybody's.
        self._loop.average_moving_statistics()
        self._commit.take(self._loop.variables(), self._state)
        if self._world.broadcast_object(self._changes.pending):
            raise Regroup("workers joined or were taken away")


class Watchdog:
    """Kills this worker when it no longer runs, so that the others are told: a frozen process closes no connection.

    A process of its own, fed by a thread that only beats while this process is scheduled. A worker that waits for
    another one beats on.

    Args:
        patience_s: Seconds without a beat.
    """

    def __init__(self, patience_s: float) -> None:
        self._ended = threading.Event()
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-E", "-c", _WATCHDOG, str(os.getpid()), str(patience_s)],
            stdin=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        pipe = self._process.stdin
        if pipe is None:
            raise RuntimeError("a process started with a pipe has one")
        self._thread = threading.Thread(target=self._beat, args=(pipe,), name="watchdog", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the watch."""
        self._ended.set()
        self._thread.join()
        self._process.wait()

    def _beat(self, pipe: IO[bytes]) -> None:
        with pipe:
            while not self._ended.wait(_BEAT_S):
                pipe.write(b".")
                pipe.flush()
