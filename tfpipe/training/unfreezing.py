"""Which layers train when: a frozen backbone, then gradual unfreezing from the head down."""

from typing import Any

import keras

from tfpipe.models.depth import is_embedding, layer_units, nested_models
from tfpipe.settings import ModelConfig


def stage(config: ModelConfig, epoch: int) -> int:
    """How many of `unfreeze_epochs` have come."""
    return sum(epoch >= start for start in config.unfreeze_epochs)


def freeze(network: keras.Model, config: ModelConfig, epoch: int) -> list[Any]:
    """Set which layers train in an epoch.

    The last of `layer_units` is the head and always trains. A frozen BatchNormalization also keeps its statistics.
    Source: gradual unfreezing, Howard & Ruder 2018, arXiv:1801.06146, section 3.3.

    Args:
        network: Float rows -> logits, or token ids -> logits.
        config: `freeze_backbone`, `unfreeze_epochs` and `freeze_embeddings`.
        epoch: From 0.

    Returns:
        The variables that train.
    """
    if not config.freeze_backbone:
        return list(network.trainable_variables)
    *backbone, head = layer_units(network)
    stages = max(1, len(config.unfreeze_epochs))
    free = len(backbone) * stage(config, epoch) // stages
    for model in nested_models(network):
        # A model that does not train would hide those of its layers that do.
        model.trainable = True
    for position, unit in enumerate(backbone):
        for layer in unit:
            kept = config.freeze_embeddings and is_embedding(layer)
            layer.trainable = position >= len(backbone) - free and not kept
    return [v for unit in [*backbone, head] for layer in unit for v in layer.trainable_variables]
