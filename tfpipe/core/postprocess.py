"""Raw model outputs -> the task's answer. Prediction, verification and the service share it."""

from collections.abc import Sequence
from typing import Any

import numpy as np


def classification_answer(probabilities: np.ndarray, labels: Sequence[str]) -> dict[str, Any]:
    """The answer for one row of a single-label classifier.

    Args:
        probabilities: (classes,) float.
        labels: Class names, in the order of `probabilities`.

    Returns:
        `{"label", "score", "probabilities": {label: probability}}`, most probable first (ties: class order).
    """
    order = np.argsort(-probabilities, kind="stable")
    return {
        "label": labels[order[0]],
        "score": float(probabilities[order[0]]),
        "probabilities": {labels[index]: float(probabilities[index]) for index in order},
    }
