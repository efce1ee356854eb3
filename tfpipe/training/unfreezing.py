"""Which layers train when: a frozen backbone, then gradual unfreezing from the head down."""

from typing import Any

import keras

from tfpipe.settings import ModelConfig


def stage(config: ModelConfig, epoch: int) -> int:
    """How many of `unfreeze_epochs` have come."""
    return sum(epoch >= start for start in config.unfreeze_epochs)


def freeze(network: keras.Model, config: ModelConfig, epoch: int) -> list[Any]:
    """Set which layers train in an epoch.

    The last layer with weights is the head and always trains. A frozen BatchNormalization also keeps its statistics.
    Source: gradual unfreezing, Howard & Ruder 2018, arXiv:1801.06146, section 3.3.

    Args:
        network: Float rows -> logits.
        config: `freeze_backbone` and `unfreeze_epochs`.
        epoch: From 0.

    Returns:
        The variables that train.
    """
    if not config.freeze_backbone:
        return list(network.trainable_variables)
    *backbone, head = [layer for layer in network.layers if layer.weights]
    stages = max(1, len(config.unfreeze_epochs))
    free = len(backbone) * stage(config, epoch) // stages
    for position, layer in enumerate(backbone):
        layer.trainable = position >= len(backbone) - free
    return [v for layer in [*backbone, head] for v in layer.trainable_variables]
