"""The learning-rate schedule and the optimizer that a configuration asks for."""

import keras

from tfpipe.core.schedule import LearningRateSchedule, scaled_learning_rate
from tfpipe.distributed import World
from tfpipe.settings import TrainingConfig
from tfpipe.training.optimizer import DataParallelOptimizer


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


def build_optimizer(config: TrainingConfig, network: keras.Model, world: World) -> DataParallelOptimizer:
    """The optimizer of a run, built for every variable of the network that can train."""
    if config.optimizer == "sgd":
        inner = keras.optimizers.SGD(
            config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay or None
        )
    elif config.optimizer == "adam":
        inner = keras.optimizers.Adam(config.learning_rate)
    else:
        inner = keras.optimizers.AdamW(config.learning_rate, weight_decay=config.weight_decay)
    variables = network.trainable_variables
    if config.weight_decay:
        # Biases, scales and shifts are left alone. Source: He et al. 2019, arXiv:1812.01187, section 3.1.
        inner.exclude_from_weight_decay(var_list=[variable for variable in variables if len(variable.shape) <= 1])
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
