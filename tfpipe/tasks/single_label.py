"""One class of several for each sample: images and texts.

Shape legend: B batch, C classes.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from tfpipe.core.classification import accuracy, confusion_counts, macro_score
from tfpipe.data.sources import Source
from tfpipe.data.splits import class_counts
from tfpipe.tasks.task import LOSS, RIGHT, UNITS, Compared, ratio


@dataclass(frozen=True)
class SingleLabel:
    """Labels are (B,) int32, logits (B, C); see `tfpipe.tasks.task.Task`."""

    labels: tuple[str, ...]
    label_shape: ClassVar[tuple[int | None, ...]] = ()
    metric_names: ClassVar[tuple[str, ...]] = ("loss", "accuracy")
    score_names: ClassVar[tuple[str, ...]] = ("macro_f1",)
    headline: ClassVar[str] = "accuracy"

    def output_shape(self) -> tuple[int | None, ...]:
        return None, len(self.labels)

    def compared(self, labels: Any, logits: Any, weights_B: Any) -> Compared:
        return Compared(labels, tf.cast(logits, tf.float32), weights_B)

    def losses(self, targets: Any, logits: Any, *, label_smoothing: float) -> Any:
        """Softmax cross-entropy; also of words, one more axis.

        Source: label smoothing, Szegedy et al. 2016, arXiv:1512.00567, section 7.
        """
        if not label_smoothing:
            return tf.nn.sparse_softmax_cross_entropy_with_logits(labels=targets, logits=logits)
        num_classes = len(self.labels)
        smooth = tf.one_hot(targets, num_classes) * (1.0 - label_smoothing) + label_smoothing / num_classes
        return tf.nn.softmax_cross_entropy_with_logits(labels=smooth, logits=logits)

    def class_weighted(self, compared: Compared, class_weights_C: Any) -> Any:
        return compared.weights * tf.gather(class_weights_C, compared.targets)

    def counts(self, compared: Compared, losses: Any, weights_B: Any) -> Any:
        right = tf.equal(tf.argmax(compared.logits, axis=-1, output_type=tf.int32), compared.targets)
        weights = compared.weights
        return tf.stack([
            tf.reduce_sum(weights_B),
            tf.reduce_sum(weights),
            tf.reduce_sum(losses * weights),
            tf.reduce_sum(tf.cast(right, tf.float32) * weights),
        ])  # fmt: skip

    def metrics(self, totals: np.ndarray) -> dict[str, float]:
        units = float(totals[UNITS])
        return {"loss": ratio(float(totals[LOSS]), units), "accuracy": ratio(float(totals[RIGHT]), units)}

    def predictions(self, labels: Any, probabilities: Any) -> Any:
        return tf.argmax(probabilities, axis=-1, output_type=tf.int32)

    def probabilities(self, logits: Any) -> Any:
        return tf.nn.softmax(tf.cast(logits, tf.float32))

    def tally_shape(self) -> tuple[int, ...]:
        return len(self.labels), len(self.labels)

    def tally(self, labels: np.ndarray, predictions: np.ndarray, weights_B: np.ndarray) -> np.ndarray:
        """(C, C): true class by row, predicted by column."""
        confusion = np.zeros(self.tally_shape(), np.float64)
        np.add.at(confusion, (labels, predictions), weights_B)
        return confusion

    def scores(self, tally: np.ndarray) -> dict[str, float]:
        return {"accuracy": accuracy(tally), "macro_f1": macro_score(confusion_counts(tally)).f1}

    def class_counts(self, tally: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
        return self.labels, confusion_counts(tally)

    def confusion(self, tally: np.ndarray) -> np.ndarray | None:
        return tally

    def examples(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(0)
        labels = rng.integers(0, len(self.labels), size).astype(np.int32)
        return labels, rng.normal(size=(size, len(self.labels))).astype(np.float32)

    def occurrences(self, source: Source) -> np.ndarray:
        return class_counts(source)
