"""Raw model outputs -> the task's answer. Prediction, verification and the service share it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfpipe.core.signature import Array


def classification_answer(probabilities: Array, labels: Sequence[str]) -> dict[str, Any]:
    """The answer for one row of a single-label classifier.

    Args:
        probabilities: (classes,) float.
        labels: Class names, in the order of `probabilities`.

    Returns:
        `{"label", "score", "probabilities": {label: probability}}`, most probable first (ties: class order).
    """
    order = np.argsort(-probabilities, kind="stable")
    # tolist: one conversion for all classes, of which there may be a thousand.
    names, values = [labels[index] for index in order.tolist()], probabilities[order].tolist()
    return {"label": names[0], "score": values[0], "probabilities": dict(zip(names, values, strict=True))}
