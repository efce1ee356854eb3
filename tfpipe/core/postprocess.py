"""Raw model outputs -> the task's answer. Prediction, verification and the service share it."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from tfpipe.core.entities import character_entities, entity_spans
from tfpipe.core.signature import Array

# A class of a multi-label classifier is an answer from this probability on: more probable than not.
MULTI_LABEL_THRESHOLD = 0.5


def classification_answer(probabilities: Array, labels: Sequence[str]) -> dict[str, Any]:
    """The answer for one row of a single-label classifier.

    Args:
        probabilities: (classes,) float.
        labels: Class names, in the order of `probabilities`.

    Returns:
        `{"label", "score", "probabilities": {label: probability}}`, most probable first (ties: class order).
    """
    names, values = _ordered(probabilities, labels)
    return {"label": names[0], "score": values[0], "probabilities": dict(zip(names, values, strict=True))}


def multi_label_answer(probabilities: Array, labels: Sequence[str]) -> dict[str, Any]:
    """The answer for one row of a classifier that says yes or no to each class.

    Args:
        probabilities: (classes,) float.
        labels: Class names, in the order of `probabilities`.

    Returns:
        `{"labels": [{"label", "score"}], "probabilities": {label: probability}}`, most probable first (ties: class
        order); `labels` are those of at least 0.5, of which there may be none.
    """
    names, values = _ordered(probabilities, labels)
    chosen = [
        {"label": name, "score": value}
        for name, value in zip(names, values, strict=True)
        if value >= MULTI_LABEL_THRESHOLD
    ]
    return {"labels": chosen, "probabilities": dict(zip(names, values, strict=True))}


def entities_answer(
    text: str, starts: Sequence[int], ends: Sequence[int], tags: Sequence[str], scores: Sequence[float]
) -> dict[str, Any]:
    """The answer for one text whose words were tagged.

    Args:
        text: The caller's own string.
        starts: (words,) where each word begins in it, in code points.
        ends: (words,) one past where it ends.
        tags: (words,) "O", "B-PER", ...
        scores: (words,) probability of each tag.

    Returns:
        `{"entities": [{"text", "label", "start", "end", "score"}]}` in the order of the text.
    """
    return {"entities": character_entities(text, entity_spans(tags), starts, ends, scores)}


def _ordered(probabilities: Array, labels: Sequence[str]) -> tuple[list[str], list[float]]:
    order = np.argsort(-probabilities, kind="stable")
    # tolist: one conversion for all classes, of which there may be a thousand.
    return [labels[index] for index in order.tolist()], probabilities[order].tolist()
