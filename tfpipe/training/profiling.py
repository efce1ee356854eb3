"""A TensorBoard profile of a few steps."""

import logging
from pathlib import Path
from types import TracebackType

import tensorflow as tf

from tfpipe.training.observers import Observer, StepRecord

logger = logging.getLogger(__name__)

# The first steps make graphs and fill caches.
_FIRST_STEP, _NUM_STEPS = 10, 10


class Profile(Observer):
    """Records steps 11 to 20 of this sitting, or what there is of them.

    Args:
        folder: Where TensorBoard will find it.
        num_steps: Of this sitting; where they are few, recording begins earlier.
    """

    def __init__(self, folder: Path, num_steps: int) -> None:
        self._folder = folder
        self._first = min(_FIRST_STEP, num_steps // 2)
        self._seen = 0
        self._is_recording = False

    def __enter__(self) -> "Profile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    def on_train_begin(self) -> None:
        """Begin at once where there is no time to lose."""
        self._start_if_due()

    def on_step(self, record: StepRecord) -> None:
        """Begin or end when it is time."""
        self._seen += 1
        if self._seen == self._first + _NUM_STEPS:
            self._stop()
        self._start_if_due()

    def on_train_end(self) -> None:
        """End what had fewer steps."""
        self._stop()

    def _start_if_due(self) -> None:
        if self._seen == self._first:
            tf.profiler.experimental.start(str(self._folder))
            self._is_recording = True

    def _stop(self) -> None:
        if not self._is_recording:
            return
        self._is_recording = False
        tf.profiler.experimental.stop()
        logger.info(
            "profile of %d steps: look at it with `tensorboard --logdir %s`, which wants "
            "`pip install tensorboard-plugin-profile` in an environment of its own",
            self._seen - self._first,
            self._folder,
        )
