"""The learning-rate schedule, the loss and the optimizer that a configuration asks for."""

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfpipe.core.errors import ConfigError
from tfpipe.core.schedule import LearningRateSchedule, scaled_learning_rate
from tfpipe.distributed import World
from tfpipe.models.zoo import import_function
from tfpipe.tasks.task import Task
from tfpipe.training.layer_decay import decay_by_layer
from tfpipe.training.optimizer import DataParallelOptimizer
from tfpipe.training_settings import TrainingConfig


def build_schedule(config: TrainingConfig, steps_per_epoch: int) -> LearningRateSchedule:
    """The learning rate of a run."""
    return LearningRateSchedule(
        peak=scaled_learning_rate(
            config.learning_rate, batch_size=config.batch_size, reference_batch_size=config.reference_batch_size
        ),
        shape=config.schedule,
        warmup_steps=round(config.warmup_epochs * steps_per_epoch),
        total_steps=config.epochs * steps_per_epoch,
        restart_steps=round(config.restart_epochs * steps_per_epoch),
        final_fraction=config.final_learning_rate_fraction,
    )


def build_losses(config: TrainingConfig, task: Task, *, smoothing: float) -> Callable[[Any, Any], Any]:
    """The loss of each unit of comparison, float32, from targets and logits as `Task.compared` gives them.

    Args:
        config: Of the run.
        task: What labels are.
        smoothing: Label smoothing of the built-in loss.

    Raises:
        ConfigError: `training.loss` cannot be imported.
    """
    if config.loss is None:
        return lambda targets, logits: task.losses(targets, logits, label_smoothing=smoothing)
    given = import_function(config.loss, key="training.loss")
    return lambda targets, logits: tf.cast(given(targets, logits), tf.float32)


def check_loss(config: TrainingConfig, task: Task) -> None:
    """Try `training.loss` on two examples, before hours depend on it.

    Raises:
        ConfigError: It fails, or gives something else than one loss an example.
    """
    if config.loss is None:
        return
    losses = build_losses(config, task, smoothing=0.0)
    compared = task.compared(*task.examples(2), tf.ones(2))
    expected = tuple(compared.targets.shape)
    where = f"training.loss: expected {config.loss!r} to give one loss an example, {expected} for 2 examples"
    try:
        # In a graph, as in training.
        shape = tuple(tf.function(losses, autograph=False)(compared.targets, compared.logits).shape)
    # Whatever the user's function may raise.
    except Exception as error:
        raise ConfigError(f"{where}, but it fails: {type(error).__name__}: {error}") from error
    if shape != expected:
        raise ConfigError(f"{where}, received shape {shape}. Leave the mean over the batch out.")


def build_optimizer(config: TrainingConfig, network: keras.Model, world: World) -> DataParallelOptimizer:
    """The optimizer of a run, built for every variable of the network that can train."""
    average: dict[str, Any] = {}
    if config.ema_momentum is not None:
        average = {"use_ema": True, "ema_momentum": config.ema_momentum}
    if config.optimizer == "sgd":
        inner = keras.optimizers.SGD(
            config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay or None, **average
        )
    elif config.optimizer == "adam":
        inner = keras.optimizers.Adam(config.learning_rate, **average)
    else:
        inner = keras.optimizers.AdamW(config.learning_rate, weight_decay=config.weight_decay, **average)
    variables = network.trainable_variables
    if config.weight_decay:
        # Biases, scales and shifts are left alone. Source: He et al. 2019, arXiv:1812.01187, section 3.1.
        inner.exclude_from_weight_decay(var_list=[variable for variable in variables if len(variable.shape) <= 1])
    if config.layer_decay < 1:
        decay_by_layer(inner, network, config.layer_decay)
    optimizer = DataParallelOptimizer(
        inner,
        world,
        clip_norm=config.gradient_clip_norm,
        scale_loss=config.precision == "mixed_float16",
        reduction=config.gradient_reduction,
        compression=config.gradient_compression,
    )
    optimizer.build(variables)
    return optimizer
