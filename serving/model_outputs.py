"""Answers of a model as arrays, checked; protocols of tensors share it."""

import math
from collections.abc import Sequence

import numpy as np

from serving.engine import Answered
from serving.errors import InvalidRequestError
from tfpipe.core.errors import InferenceError
from tfpipe.core.signature import Array


def probabilities_of(answered: Sequence[Answered], *, of_own_rows: bool) -> Array:
    """(rows, classes) float32.

    Args:
        answered: One a row.
        of_own_rows: Whether the client sent rows of the model's input, and no images or texts.

    Raises:
        InferenceError: One is not finite, and so is no answer.
        InvalidRequestError: Likewise, for rows that no image or text gives.
    """
    if len(answered) == 1:
        probabilities = answered[0].rows[0].probabilities[None]
    else:
        # Not np.stack, which costs more than all the rest for few rows.
        probabilities = np.array([one.rows[0].probabilities for one in answered])
    flat = probabilities.reshape(-1)
    if not math.isfinite(np.vdot(flat, flat)):
        words = "model: expected finite probabilities, received NaN or infinity."
        raise (
            InvalidRequestError(f"{words} No preprocessing gives such rows.") if of_own_rows else InferenceError(words)
        )
    return probabilities
