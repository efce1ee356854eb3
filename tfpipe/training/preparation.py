"""From a configuration to data and a model that are ready to train, the same on every worker."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfpipe.core.errors import ConfigError, DataError
from tfpipe.data.pipeline import RowReader
from tfpipe.data.splits import Splits, open_splits
from tfpipe.distributed import World
from tfpipe.models.assembly import (
    Parts,
    assemble,
    build_network,
    build_preprocessing,
    build_resize,
    known_normalization,
)
from tfpipe.models.zoo import Normalization
from tfpipe.settings import Config
from tfpipe.tasks import image_classification as task
from tfpipe.training import agreement, limits, precision
from tfpipe.training.keras_callbacks import build_callbacks
from tfpipe.training.loop import TrainingLoop
from tfpipe.training.recipe import check_loss
from tfpipe.training.signals import StopRequest
from tfpipe.training.user_metrics import build_metrics, check_metrics

logger = logging.getLogger(__name__)

# Enough to know a mean and a standard deviation to half a percent; a larger data set would cost an epoch of reading.
_ADAPT_SAMPLES = 10_000
_ADAPT_CHUNK = 256
# A channel that is all but constant would be divided by nearly zero.
_LEAST_STD = 1 / 255


@dataclass(frozen=True)
class Prepared:
    """Data and model of a run, before its first step; `callbacks` are the user's."""

    splits: Splits
    train: RowReader
    validation: RowReader | None
    test: RowReader | None
    parts: Parts
    loop: TrainingLoop
    callbacks: Sequence[keras.callbacks.Callback]


def prepare(config: Config, world: World, stop: StopRequest, *, fast_dev_run: bool = False) -> Prepared:
    """Open the data and build the model, the same on every worker.

    Raises:
        ConfigError: The configuration does not go with the data or the model.
        DataError: The data cannot be used.
    """
    # 1. Data: the same on every worker.
    if config.task != "image_classification":
        raise ConfigError(
            f"task: expected image_classification, received {config.task}: texts can be validated and packed, "
            "but not trained on yet."
        )
    say(world, "placement: %s", world.describe_placement())
    _check_metric_names(config)
    user_callbacks = world.together(lambda: build_callbacks(config.training))
    world.together(lambda: precision.check(config.training))
    splits = _open_data(config, world)
    splits = limits.one_batch_each(splits, config) if fast_dev_run else limits.limited(splits, config)
    check_loss(config.training, len(splits.train.labels))
    check_metrics(build_metrics(config.training), len(splits.train.labels))
    say(world, "%s", _data_line(splits))

    # 2. Model.
    keras.utils.set_random_seed(config.training.seed)
    if config.training.deterministic:
        tf.config.experimental.enable_op_determinism()
    train = _reader(splits.train, config, world)
    if config.training.precision == "auto":
        config = precision.resolve(config, len(splits.train.labels), train, world)
    keras.mixed_precision.set_global_policy(config.training.precision)
    validation, test = (
        None if source is None else _reader(source, config, world) for source in (splits.validation, splits.test)
    )
    parts = world.together(lambda: _build(config, splits, train, world))
    loop = world.together(lambda: TrainingLoop(parts, config, world, train, validation, stop))
    say(
        world,
        "model: %s, %s parameters, %d worker(s)",
        config.model.name,
        f"{parts.model.count_params():,}",
        world.size,
    )
    return Prepared(splits, train, validation, test, parts, loop, user_callbacks)


def _check_metric_names(config: Config) -> None:
    """Hours of training must not end at a name that was mistyped.

    Raises:
        ConfigError: `training.monitor` or `tracking.min_metrics` names a metric that this task does not have.
    """
    known = [f"{prefix}{name}" for prefix in ("", "val_", "test_") for name in task.METRICS]
    known += [f"{prefix}{metric.name}" for prefix in ("val_", "test_") for metric in build_metrics(config.training)]
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


def _reader(source: Any, config: Config, world: World) -> RowReader:
    return RowReader(
        source, build_resize(config.preprocessing), max_pixels=config.data.max_image_pixels, cache=config.data.cache,
        processes=world.local_size,
    )  # fmt: skip


def _build(config: Config, splits: Splits, train: RowReader, world: World) -> Parts:
    known = known_normalization(config)
    # A name or a file of weights that is wrong is told before samples are read.
    network = build_network(config, len(splits.train.labels))
    normalization = known or adapted_normalization(train, world)
    return assemble(build_preprocessing(config.preprocessing, normalization), network, splits.train.labels)


def adapted_normalization(reader: RowReader, world: World) -> Normalization:
    """Mean and standard deviation per channel of up to 10,000 training samples; each worker reads its share.

    Raises:
        DataError: None of them can be read.
    """
    picked = np.unique(np.linspace(0, len(reader.source) - 1, _ADAPT_SAMPLES).astype(np.int64))
    mine = picked[world.rank :: world.size]
    sums = np.zeros((3, 3))
    for start in range(0, len(mine), _ADAPT_CHUNK):
        rows, readable = reader.read(mine[start : start + _ADAPT_CHUNK])
        values = rows[readable].astype(np.float64) / 255.0
        sums += [np.full(3, values[..., 0].size), values.sum((0, 1, 2)), np.square(values).sum((0, 1, 2))]
    count, total, squares = np.sum(world.gather_objects(sums), axis=0)
    if not count[0]:
        raise DataError(
            "data.path: expected readable training samples, received none. `python -m tfpipe.data validate` says why."
        )
    mean = total / count
    std = np.maximum(np.sqrt(np.maximum(squares / count - mean**2, 0.0)), _LEAST_STD)
    # Six digits: how the sums were split over workers must not show.
    return Normalization(tuple(np.round(mean, 6).tolist()), tuple(np.round(std, 6).tolist()))


def say(world: World, message: str, *values: Any) -> None:
    """Log a line on the chief alone."""
    if world.is_chief:
        logger.info(message, *values)
