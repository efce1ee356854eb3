"""Image classification: what differs from other tasks.

Shape legend: B batch, N classes.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

METRICS = ("loss", "accuracy")


def losses(labels_B: Any, logits_BN: Any, *, label_smoothing: float) -> Any:
    """Softmax cross-entropy of each example.

    Source: label smoothing, Szegedy et al. 2016, arXiv:1512.00567, section 7.

    Args:
        labels_B: (B,) int32.
        logits_BN: (B, N) of any float dtype; computed in float32.
        label_smoothing: Share of the target spread over all classes.

    Returns:
        (B,) float32.
    """
    logits_BN = tf.cast(logits_BN, tf.float32)
    if not label_smoothing:
        return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels_B, logits=logits_BN)
    num_classes = logits_BN.shape[-1]
    targets = tf.one_hot(labels_B, num_classes) * (1.0 - label_smoothing) + label_smoothing / num_classes
    return tf.nn.softmax_cross_entropy_with_logits(labels=targets, logits=logits_BN)


def counts(labels_B: Any, logits_BN: Any, losses_B: Any, weights_B: Any) -> Any:
    """What is summed over steps and workers to give the metrics: (3,) float32 weight, loss, correct answers."""
    correct = tf.cast(tf.equal(tf.argmax(logits_BN, axis=-1, output_type=tf.int32), labels_B), tf.float32)
    return tf.stack([tf.reduce_sum(weights_B), tf.reduce_sum(losses_B * weights_B), tf.reduce_sum(correct * weights_B)])


def metrics(totals: np.ndarray) -> dict[str, float]:
    """Metrics from summed `counts`; NaN where nothing was counted."""
    weight, loss, correct = (float(value) for value in totals[:3])
    if weight <= 0:
        return {"loss": float("nan"), "accuracy": float("nan")}
    return {"loss": loss / weight, "accuracy": correct / weight}


def confusion(labels_B: Any, logits_BN: Any, weights_B: Any) -> Any:
    """(N, N) float32 counts: true class by row, predicted by column."""
    num_classes = logits_BN.shape[-1]
    predicted = tf.argmax(logits_BN, axis=-1, output_type=tf.int32)
    return tf.math.confusion_matrix(labels_B, predicted, num_classes, weights=weights_B, dtype=tf.float32)


def summary_line(values: Mapping[str, float]) -> str:
    """Metrics as a person reads them in the progress output."""
    return "  ".join(f"{name} {value:.4f}" for name, value in values.items())
