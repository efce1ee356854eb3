"""Checkpoints written while training goes on: it waits for a copy in memory only."""

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import tensorflow as tf

from tfpipe.core.errors import TrainingError
from tfpipe.training.checkpoints import CheckpointFolder, TrainingState, variable_names

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Snapshot:
    arrays: dict[str, np.ndarray]
    state: TrainingState
    best: bool


class CheckpointWriter:
    """Writes the checkpoints of a run in a thread, one at a time and in order.

    One that cannot be written is told and training goes on, as the earlier ones stand. What ends a run must not be lost
    so: `finish` tries the newest once more, and fails where that fails.

    Args:
        folder: Where they go.
    """

    def __init__(self, folder: CheckpointFolder) -> None:
        self.folder = folder
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._buffers: dict[str, np.ndarray] = {}
        self._writing: Future[None] | None = None
        self._unwritten: _Snapshot | None = None

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # What is being written becomes whole; where the run failed, its error is the one to tell.
        self._thread.shutdown(wait=True)

    def prepare(self, variables: Mapping[str, Sequence[Any]]) -> None:
        """Set the memory aside that copies go to; memory that was never written is ten times slower at first.

        Args:
            variables: As in `CheckpointFolder.save`.
        """
        self._copied(variables)

    def save(self, variables: Mapping[str, Sequence[Any]], state: TrainingState, *, best: bool = False) -> None:
        """Copy the variables, and write them in the background. Waits first where one is still being written.

        Args:
            variables: As in `CheckpointFolder.save`.
            state: The rest.
            best: Whether it is the best so far.
        """
        self._wait()
        # Entries of the history do not change once they are in it.
        state = dataclasses.replace(state, history=list(state.history), epoch_totals=list(state.epoch_totals))
        self._unwritten = _Snapshot(self._copied(variables), state, best)
        self._writing = self._thread.submit(self._write, self._unwritten)

    def finish(self) -> None:
        """Wait until the newest checkpoint is on the disk.

        Raises:
            TrainingError: It cannot be written; the earlier ones stand.
        """
        self._wait()
        if self._unwritten is not None:
            self.folder.write(self._unwritten.arrays, self._unwritten.state, best=self._unwritten.best)
            self._unwritten = None

    def newest_finite(self) -> Path | None:
        """As of the folder, when nothing is being written."""
        self._wait()
        return self.folder.newest_finite()

    def _wait(self) -> None:
        if self._writing is not None:
            # Raises what is no matter of the disk: a defect.
            self._writing.result()
            self._writing = None

    def _write(self, snapshot: _Snapshot) -> None:
        try:
            self.folder.write(snapshot.arrays, snapshot.state, best=snapshot.best)
        except TrainingError as error:
            logger.warning("%s Training goes on; the checkpoints before it are kept.", error)
        else:
            self._unwritten = None

    def _copied(self, variables: Mapping[str, Sequence[Any]]) -> dict[str, np.ndarray]:
        # A tensor shares its variable's memory on the CPU; the variable's own numpy() would be one more copy.
        views = {
            name: np.asarray(tf.convert_to_tensor(variable.value))
            for name, variable in variable_names(variables).items()
        }
        if [(name, view.shape, view.dtype) for name, view in views.items()] != [
            (name, buffer.shape, buffer.dtype) for name, buffer in self._buffers.items()
        ]:
            self._buffers = {name: np.zeros_like(view, order="C") for name, view in views.items()}
        for name, view in views.items():
            np.copyto(self._buffers[name], view)
        return self._buffers
