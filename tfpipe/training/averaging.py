"""The exponential moving average of the weights in the place of the weights.

Keras's own optimizers keep it (`use_ema`), as variables of theirs that a checkpoint holds: it moves once an update, and
not at all in a step that is skipped. The moving statistics of BatchNormalization are none of it: they stay those of the
weights that train, as averages of their own.

Source: Polyak & Juditsky 1992, "Acceleration of stochastic approximation by averaging".
"""

from collections.abc import Iterator
from contextlib import contextmanager

from tfpipe.training.optimizer import DataParallelOptimizer


def adopt_average(optimizer: DataParallelOptimizer) -> None:
    """Replace the weights by their average, where there is one."""
    # Before the first update there is no average but zeros.
    if optimizer.inner.use_ema and int(optimizer.iterations) > 0:
        optimizer.inner.finalize_variable_values(optimizer.inner._trainable_variables)


@contextmanager
def averaged(optimizer: DataParallelOptimizer) -> Iterator[None]:
    """While entered, the weights are their average, where there is one."""
    variables = optimizer.inner._trainable_variables if optimizer.inner.use_ema else []
    kept = [variable.numpy() for variable in variables]
    adopt_average(optimizer)
    try:
        yield
    finally:
        for variable, value in zip(variables, kept, strict=True):
            variable.assign(value)
