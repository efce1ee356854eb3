"""From a configuration to data and a model that are ready to train, the same on every worker."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from tfpipe.core.errors import ConfigError
from tfpipe.data.pipeline import Reader
from tfpipe.data.splits import Splits, open_splits
from tfpipe.distributed import World
from tfpipe.models.assembly import Parts
from tfpipe.settings import Config
from tfpipe.tasks.task import Task, known_metrics
from tfpipe.training import agreement, limits, precision
from tfpipe.training.keras_callbacks import build_callbacks
from tfpipe.training.loop import TrainingLoop
from tfpipe.training.modality import open_modality
from tfpipe.training.recipe import check_loss
from tfpipe.training.signals import StopRequest
from tfpipe.training.user_metrics import build_metrics, check_metrics

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """Data and model of a run, before its first step; `callbacks` are the user's."""

    splits: Splits
    train: Reader
    validation: Reader | None
    test: Reader | None
    parts: Parts
    loop: TrainingLoop
    callbacks: Sequence[keras.callbacks.Callback]


def prepare(
    config: Config, world: World, stop: StopRequest, *, folder: Path | None = None, fast_dev_run: bool = False
) -> Prepared:
    """Open the data and build the model, the same on every worker.

    Args:
        config: The run.
        world: The workers.
        stop: Asked after each step.
        folder: Of the run, whose tokenizer is used where an earlier sitting left one; None: the run has none.
        fast_dev_run: One batch of everything.

    Raises:
        ConfigError: The configuration does not go with the data or the model.
        DataError: The data cannot be used.
    """
    # 1. Data: the same on every worker.
    say(world, "placement: %s", world.describe_placement())
    user_callbacks = world.together(lambda: build_callbacks(config.training))
    world.together(lambda: precision.check(config.training))
    splits = _open_data(config, world)
    splits = limits.one_batch_each(splits, config) if fast_dev_run else limits.limited(splits, config)
    say(world, "%s", _data_line(splits))
    modality = open_modality(config, splits.train, world, folder)
    task = modality.task
    _check_metric_names(config, task)
    check_loss(config.training, task)
    check_metrics(build_metrics(config.training, task), task)

    # 2. Model.
    keras.utils.set_random_seed(config.training.seed)
    if config.training.deterministic:
        tf.config.experimental.enable_op_determinism()
    train = world.together(lambda: modality.reader(splits.train))
    if config.training.precision == "auto":
        config = precision.resolve(config, modality.build_alike, train, world)
    keras.mixed_precision.set_global_policy(config.training.precision)
    validation, test = (
        None if source is None else world.together(lambda: modality.reader(source))  # noqa: B023  # called at once
        for source in (splits.validation, splits.test)
    )
    parts = world.together(lambda: modality.build(config, train, world))
    loop = world.together(lambda: TrainingLoop(parts, config, world, train, validation, stop))
    say(
        world,
        "model: %s, %s parameters, %d worker(s)",
        config.model.name,
        f"{parts.model.count_params():,}",
        world.size,
    )
    return Prepared(splits, train, validation, test, parts, loop, user_callbacks)


def _check_metric_names(config: Config, task: Task) -> None:
    """Hours of training must not end at a name that was mistyped.

    Raises:
        ConfigError: `training.monitor` or `tracking.min_metrics` names a metric that this task does not have.
    """
    own = build_metrics(config.training, task)
    known = [*known_metrics(task), *(f"{prefix}{metric.name}" for prefix in ("val_", "test_") for metric in own)]
    named = [("training.monitor", config.training.monitor)]
    named += [("tracking.min_metrics", name) for name in config.tracking.min_metrics]
    problems = [
        f"{key}: expected one of {', '.join(known)}, received {name!r}." for key, name in named if name not in known
    ]
    if config.training.monitor.startswith("test_"):
        problems.append("training.monitor: expected a metric of every epoch; test data are scored once, at the end.")
    if problems:
        raise ConfigError("\n".join(problems))


def _open_data(config: Config, world: World) -> Splits:
    splits = world.together(lambda: open_splits(config))
    agreement.check_same_data(splits, world)
    agreement.check_enough_for_all(config, len(splits.train), world)
    return splits


def _data_line(splits: Splits) -> str:
    counts = [
        f"{len(source)} {name}"
        for name, source in (("training", splits.train), ("validation", splits.validation), ("test", splits.test))
        if source is not None
    ]
    return f"data: {', '.join(counts)} samples, {len(splits.train.labels)} classes"


def say(world: World, message: str, *values: Any) -> None:
    """Log a line on the chief alone."""
    if world.is_chief:
        logger.info(message, *values)
