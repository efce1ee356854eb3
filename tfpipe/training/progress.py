"""What the chief shows while it trains: a bar on a terminal, a line every few seconds elsewhere."""

import sys
import time
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

_LINE_EVERY_S = 10.0


class Progress:
    """Steps, loss, samples per second and time left.

    Args:
        epochs: Of the run.
        steps_per_epoch: Of each.
        shown: False on workers that have nothing to show.
        clock: Seconds that only grow.
    """

    def __init__(
        self, *, epochs: int, steps_per_epoch: int, shown: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._epochs, self._steps, self._shown = epochs, steps_per_epoch, shown
        self._terminal = shown and sys.stderr.isatty()
        self._bar: Any = None
        self._started = self._last_line = self._clock()
        self._first_step = self._step = 0
        self._samples = 0.0

    def start_epoch(self, epoch: int, first_step: int) -> None:
        """Begin an epoch, maybe in its middle."""
        self._started = self._last_line = self._clock()
        self._samples, self._first_step, self._step = 0.0, first_step, first_step
        self._epoch = epoch
        if self._terminal:
            self._bar = tqdm(
                total=self._steps, initial=first_step, desc=f"epoch {epoch + 1}/{self._epochs}", unit="step",
                leave=False, dynamic_ncols=True, file=sys.stderr,
            )  # fmt: skip

    def step(self, *, loss: float, samples: float) -> None:
        """One step done, with the epoch's mean loss so far and the samples of the step."""
        self._samples += samples
        self._step += 1
        if self._bar is not None:
            self._bar.set_postfix_str(
                f"loss {loss:.4f}, {self.samples_per_second:.0f} samples/s, run {self._left()} left", refresh=False
            )
            self._bar.update()
        elif self._shown and self._clock() - self._last_line > _LINE_EVERY_S:
            self._last_line = self._clock()
            sys.stderr.write(
                f"epoch {self._epoch + 1}/{self._epochs}  step {self._step}/{self._steps}  loss {loss:.4f}  "
                f"{self.samples_per_second:.0f} samples/s  {self._left()} left\n"
            )

    def end_epoch(self, line: str) -> None:
        """Show the epoch's result and the time left to the end of the run."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        if self._shown:
            # By the whole epoch, validation and checkpoint included.
            to_do = self._epochs - self._epoch - 1
            left = f"  {_duration((self._clock() - self._started) * to_do)} left" if to_do else ""
            sys.stderr.write(f"epoch {self._epoch + 1}/{self._epochs}  {line}{left}\n")
            sys.stderr.flush()

    @property
    def samples_per_second(self) -> float:
        """Of this epoch so far."""
        return self._samples / max(1e-9, self._clock() - self._started)

    def _left(self) -> str:
        done = max(1, self._step - self._first_step)
        to_do = self._steps - self._step + (self._epochs - self._epoch - 1) * self._steps
        return _duration((self._clock() - self._started) / done * to_do)


def _duration(seconds: float) -> str:
    whole = int(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
