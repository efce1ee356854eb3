"""Learning rate and sparsity over a run: plain functions of the number of updates done."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class LearningRateSchedule:
    """Linear warm-up, then constant, cosine decay, or cosine warm restarts.

    Attributes:
        peak: Learning rate after warm-up, scaled to the batch size already.
        shape: What follows the warm-up.
        warmup_steps: Updates of the ramp from `peak / warmup_steps` to `peak`.
        total_steps: Updates of the run; where cosine decay ends.
        restart_steps: Updates of the first cosine_restarts cycle; each next is twice as long.
        final_fraction: Lowest learning rate as a share of `peak`.
    """

    peak: float
    shape: Literal["constant", "cosine", "cosine_restarts"]
    warmup_steps: int
    total_steps: int
    restart_steps: int
    final_fraction: float

    def at(self, step: int) -> float:
        """Learning rate of the update after `step` updates.

        Source: warm-up, Goyal et al. 2017, arXiv:1706.02677, section 2.2; cosine with restarts, Loshchilov & Hutter
        2017, arXiv:1608.03983, equation 5, with T_mult = 2.
        """
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        if self.shape == "constant":
            return self.peak
        done = step - self.warmup_steps
        if self.shape == "cosine":
            progress = min(1.0, done / max(1, self.total_steps - self.warmup_steps))
        else:
            progress = _cycle_progress(done, max(1, self.restart_steps))
        low = self.peak * self.final_fraction
        return low + 0.5 * (self.peak - low) * (1.0 + math.cos(math.pi * progress))


@dataclass(frozen=True)
class SparsitySchedule:
    """A rising share of weights that are 0: fast at first, while there are many that nobody misses, then slower.

    Attributes:
        target: Share in the end, 0..1.
        start_step: Updates before the first weight is pruned.
        end_step: Updates before the last one is; at least `start_step`.
        every_steps: Updates between two rises.
    """

    target: float
    start_step: int
    end_step: int
    every_steps: int

    def at(self, step: int) -> float:
        """Share that is 0 during the update after `step` updates.

        Source: Zhu & Gupta 2017, arXiv:1710.01878, equation 1, with an initial sparsity of 0.
        """
        if step >= self.end_step:
            return self.target
        rises = max(0, step - self.start_step) // self.every_steps
        progress = rises * self.every_steps / (self.end_step - self.start_step) if rises else 0.0
        return self.target * (1.0 - (1.0 - progress) ** 3)


def scaled_learning_rate(base: float, *, batch_size: int, reference_batch_size: int | None) -> float:
    """Scale linearly with the global batch; never with the number of workers.

    Source: Goyal et al. 2017, arXiv:1706.02677, section 2.1.
    """
    return base if reference_batch_size is None else base * batch_size / reference_batch_size


def _cycle_progress(done: int, first: int) -> float:
    """Where in its cycle an update lies, 0..1; cycles of `first`, 2 `first`, 4 `first`, ... updates."""
    cycle = int(math.log2(done / first + 1))
    length = first << cycle
    return (done - (length - first)) / length
