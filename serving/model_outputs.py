"""Answers of a model as arrays; protocols of tensors share it."""

from collections.abc import Sequence

import numpy as np

from serving.engine import Answered
from tfpipe.core.signature import Array


def probabilities_of(answered: Sequence[Answered]) -> Array:
    """(rows, classes) float32, one row an answer."""
    if len(answered) == 1:
        return answered[0].rows[0].probabilities[None]
    # Not np.stack, which costs more than all the rest for few rows.
    return np.array([one.rows[0].probabilities for one in answered])
