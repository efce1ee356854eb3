"""Runs over less than the whole of the data: overfitting a few batches, short validation, a run to try everything."""

from pathlib import Path

from tfpipe.data.sharding import epoch_order, num_steps
from tfpipe.data.sources import Source, subset
from tfpipe.data.splits import Splits
from tfpipe.settings import Config
from tfpipe.training.workspace import FAST_DEV_RUN


def fast_dev_run(config: Config) -> Config:
    """The same run as short as it can be: one epoch, nothing registered, in a folder `fast-dev-run` beside its own."""
    training = config.training.model_copy(
        update={"epochs": 1, "warmup_epochs": min(1.0, config.training.warmup_epochs)}
        | dict.fromkeys(("overfit_batches", "limit_train_batches", "limit_validation_batches"))
    )
    tracking = config.tracking.model_copy(update={"registered_model": None, "min_metrics": {}})
    folder = Path(config.output_dir).parent / FAST_DEV_RUN
    return config.model_copy(update={"training": training, "tracking": tracking, "output_dir": str(folder)})


def one_batch_each(splits: Splits, config: Config) -> Splits:
    """One batch of training, validation and test data."""
    return Splits(
        _picked(splits.train, 1, config),
        splits.validation and _picked(splits.validation, 1, config),
        splits.test and _picked(splits.test, 1, config),
        splits.fingerprint,
    )


def limited(splits: Splits, config: Config) -> Splits:
    """The data that `training.overfit_batches` or `training.limit_validation_batches` leave."""
    overfit = config.training.overfit_batches
    if overfit is not None:
        few = _picked(splits.train, overfit, config)
        return Splits(few, few, splits.test, splits.fingerprint)
    if splits.validation is None:
        return splits
    few = limited_validation(splits.validation, config)
    return Splits(splits.train, few, splits.test, splits.fingerprint)


def limited_validation(validation: Source, config: Config) -> Source:
    """The validation samples that `training.limit_validation_batches` leaves; always the same."""
    limit = config.training.limit_validation_batches
    return validation if limit is None else _picked(validation, limit, config)


def steps_of_epoch(num_samples: int, config: Config) -> int:
    """Steps of each epoch, `training.limit_train_batches` kept."""
    steps = num_steps(num_samples, config.training.batch_size)
    return min(steps, config.training.limit_train_batches or steps)


def _picked(source: Source, batches: int, config: Config) -> Source:
    """The first batches of epoch 0: any classes, as sources in class order have one class at their head."""
    order = epoch_order(len(source), seed=config.training.seed, epoch=0)
    return subset(source, order[: batches * config.training.batch_size])
