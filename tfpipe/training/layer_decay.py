"""Learning rates that fall from the head down: `training.layer_decay`.

Lower layers hold what is general, and are to change less. Source: discriminative fine-tuning, Howard & Ruder 2018,
arXiv:1801.06146, section 3.1; for transformers Clark et al. 2020, arXiv:2003.10555, appendix B.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import keras

from tfpipe.models.depth import layer_units


def decay_by_layer(optimizer: keras.optimizers.Optimizer, network: keras.Model, decay: float) -> None:
    """Have a layer k below the head train with learning_rate * decay**k.

    It is the learning rate of each update that is scaled, and with it the decoupled weight decay: gradients that are
    scaled mean nothing to Adam. Averages of the weights, schedules and what a checkpoint holds stay as they are.

    Args:
        optimizer: Any of Keras 3; changed in place, before or after it is built.
        network: What it trains; each of `layer_units` is a layer. A variable outside of any trains as the head does.
        decay: Above 0, at most 1.
    """
    units = layer_units(network)
    factors = {
        optimizer._var_key(variable): decay**below
        for below, unit in enumerate(reversed(units))
        for layer in unit
        for variable in layer.variables
    }
    optimizer.update_step = partial(_update_step, optimizer, optimizer.update_step, factors)
    optimizer._apply_weight_decay = partial(_decay_weights, optimizer, factors)


def _update_step(
    optimizer: Any, plain: Any, factors: dict[Any, float], gradient: Any, variable: Any, learning_rate: Any
) -> None:
    plain(gradient, variable, learning_rate * factors.get(optimizer._var_key(variable), 1.0))


def _decay_weights(optimizer: Any, factors: dict[Any, float], variables: Sequence[Any]) -> None:
    """Keras's own, which knows one learning rate only."""
    if optimizer.weight_decay is None:
        return
    for variable in variables:
        if optimizer._use_weight_decay(variable):
            share = optimizer.learning_rate * optimizer.weight_decay * factors.get(optimizer._var_key(variable), 1.0)
            variable.assign_sub(variable * keras.ops.cast(share, variable.dtype))
