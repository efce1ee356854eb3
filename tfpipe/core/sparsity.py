"""Which weights of a kernel are pruned: those of the smallest magnitude."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def num_pruned(size: int, sparsity: float) -> int:
    """How many of so many weights are 0 at a sparsity of 0..1."""
    return round(size * sparsity)


def prune_smallest(weights: NDArray[Any], sparsity: float) -> NDArray[Any]:
    """The weights with the smallest magnitudes set to 0; those that are 0 are the first of them.

    Of equal magnitudes the first in C order goes: every machine prunes the same, whatever its sort does with ties.

    Args:
        weights: (...,) float, finite.
        sparsity: Share that is 0 afterwards, 0..1; more stay 0 where more were.

    Returns:
        The shape and dtype of `weights`.
    """
    magnitudes = np.abs(weights).ravel()
    count = num_pruned(magnitudes.size, sparsity)
    if count == 0:
        return weights
    limit = np.partition(magnitudes, count - 1)[count - 1]
    pruned = magnitudes < limit
    ties = np.flatnonzero(magnitudes == limit)
    pruned[ties[: count - int(pruned.sum())]] = True
    return np.where(pruned.reshape(weights.shape), weights.dtype.type(0), weights)


def zeros(weights: NDArray[Any]) -> int:
    """How many weights are 0."""
    return int(weights.size - np.count_nonzero(weights))
