"""A short training under learning rates that grow, for `python -m tfpipe.lr_find`; no run, nothing saved."""

import contextlib
import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras

from tfpipe.core.errors import StoppedError, TrainingError
from tfpipe.core.learning_rate_range import diverged, ramp, smoothed, steepest
from tfpipe.core.schedule import scaled_learning_rate
from tfpipe.data.pipeline import Batch, training_batches
from tfpipe.distributed import World, join
from tfpipe.settings import Config
from tfpipe.tasks.task import LOSS, UNITS
from tfpipe.training.agreement import check_same_configuration
from tfpipe.training.preparation import Prepared, prepare
from tfpipe.training.signals import StopRequest
from tfpipe.training.step import STOP


@dataclass(frozen=True)
class Finding:
    """What a range test found; rates are values of `training.learning_rate`, at the reference batch size.

    Attributes:
        suggestion: Where the loss falls fastest; None where it never falls.
        learning_rates: Tried, in order.
        losses: Mean over all workers' samples of each step.
        smoothed_losses: Their moving average.
        stopped: Whether the loss diverged before the last step.
    """

    suggestion: float | None
    learning_rates: list[float]
    losses: list[float]
    smoothed_losses: list[float]
    stopped: bool


def find(config: Config, *, steps: int, lowest: float, highest: float) -> tuple[Finding, World]:
    """Train for up to `steps` updates while the learning rate grows from `lowest` to `highest`.

    Every worker takes its part of each batch and finds the same.

    Raises:
        ConfigError: The configuration cannot be used.
        DataError: The data cannot be used.
        TrainingError: The first loss already is not finite.
        StoppedError: A signal came.
    """
    world = join(placement=config.training.placement, threads=config.training.threads)
    check_same_configuration(config, world)
    with contextlib.ExitStack() as held:
        stop = held.enter_context(StopRequest())
        held.callback(keras.mixed_precision.set_global_policy, keras.mixed_precision.global_policy())
        prepared = prepare(config, world, stop)
        prepared.loop.start_together()
        return _test(prepared, config, world, stop, steps, lowest, highest), world


def _test(
    prepared: Prepared, config: Config, world: World, stop: StopRequest, steps: int, lowest: float, highest: float
) -> Finding:
    training = config.training
    scale = scaled_learning_rate(
        1.0, batch_size=training.batch_size, reference_batch_size=training.reference_batch_size
    )
    step_function = prepared.loop.training_step.at(0)
    rates: list[float] = []
    losses: list[float] = []
    smooth: list[float] = []
    for step, batch in enumerate(itertools.islice(_batches(prepared, config, world), steps)):
        rate = ramp(step, steps=steps, lowest=lowest, highest=highest)
        # The sums are those of all workers: each of them breaks off here.
        sums, *_ = step_function(*batch, [float(bool(stop)), 0.0], rate * scale)
        weight, loss = float(sums[UNITS]), float(sums[LOSS])
        if float(sums[STOP]) > 0:
            raise StoppedError("stopped before the learning rates were through; nothing was written.")
        losses.append(loss / weight if weight else math.nan)
        rates.append(rate)
        smooth = smoothed(losses)
        if diverged(smooth):
            break
    if not losses or not math.isfinite(losses[0]):
        raise TrainingError(
            f"expected a finite loss before the first update, received {losses[0] if losses else 'no batch'}. "
            "Check data and preprocessing, or try --lowest."
        )
    return Finding(steepest(rates, smooth), rates, losses, smooth, stopped=diverged(smooth))


def _batches(prepared: Prepared, config: Config, world: World) -> Iterator[Any]:
    """Epoch after epoch, as many as are asked for."""
    for epoch in itertools.count():
        batches: Iterator[Batch] = training_batches(
            prepared.train, batch_size=config.training.batch_size, seed=config.training.seed, epoch=epoch, world=world,
            steps=prepared.loop.steps_per_epoch,
        )  # fmt: skip
        yield from batches
