"""Any number of labels for each sample, none included.

Shape legend: B batch, C labels.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from tfpipe.core.classification import macro_score, micro_score
from tfpipe.core.postprocess import MULTI_LABEL_THRESHOLD
from tfpipe.data.sources import Source
from tfpipe.data.text import TextSource
from tfpipe.tasks.task import LOSS, RIGHT, SAMPLES, UNITS, Compared, ratio


@dataclass(frozen=True)
class MultiLabel:
    """Labels are (B, C) int32, 1 where a sample has the label; logits (B, C); see `tfpipe.tasks.task.Task`.

    Accuracy is the share of samples whose labels are all right, as scikit-learn counts it.
    """

    labels: tuple[str, ...]
    metric_names: ClassVar[tuple[str, ...]] = ("loss", "accuracy")
    score_names: ClassVar[tuple[str, ...]] = ("micro_f1", "macro_f1")
    headline: ClassVar[str] = "micro_f1"

    @property
    def label_shape(self) -> tuple[int | None, ...]:
        return (len(self.labels),)

    def output_shape(self) -> tuple[int | None, ...]:
        return None, len(self.labels)

    def compared(self, labels: Any, logits: Any, weights_B: Any) -> Compared:
        weights = tf.broadcast_to(weights_B[:, None], tf.shape(labels))
        return Compared(tf.cast(labels, tf.float32), tf.cast(logits, tf.float32), weights)

    def losses(self, targets: Any, logits: Any, *, label_smoothing: float) -> Any:
        """Binary cross-entropy of each label, smoothed towards one half."""
        smooth = targets * (1.0 - label_smoothing) + 0.5 * label_smoothing
        return tf.nn.sigmoid_cross_entropy_with_logits(labels=smooth, logits=logits)

    def class_weighted(self, compared: Compared, class_weights_C: Any) -> Any:
        return compared.weights * class_weights_C

    def counts(self, compared: Compared, losses: Any, weights_B: Any) -> Any:
        right = tf.reduce_all(tf.equal(compared.logits >= 0, compared.targets > 0.5), axis=-1)
        return tf.stack([
            tf.reduce_sum(weights_B),
            tf.reduce_sum(compared.weights),
            tf.reduce_sum(losses * compared.weights),
            tf.reduce_sum(tf.cast(right, tf.float32) * weights_B),
        ])  # fmt: skip

    def metrics(self, totals: np.ndarray) -> dict[str, float]:
        loss = ratio(float(totals[LOSS]), float(totals[UNITS]))
        return {"loss": loss, "accuracy": ratio(float(totals[RIGHT]), float(totals[SAMPLES]))}

    def predictions(self, labels: Any, probabilities: Any) -> Any:
        return tf.cast(probabilities >= MULTI_LABEL_THRESHOLD, tf.int32)

    def probabilities(self, logits: Any) -> Any:
        return tf.nn.sigmoid(tf.cast(logits, tf.float32))

    def tally_shape(self) -> tuple[int, ...]:
        return len(self.labels) + 1, 3

    def tally(self, labels: np.ndarray, predictions: np.ndarray, weights_B: np.ndarray) -> np.ndarray:
        """(C + 1, 3): true positives, predicted, true of each label; last samples with all right, samples, samples."""
        columns = (labels * predictions, predictions, labels)
        sums = [np.sum(weights_B[:, None] * column, axis=0, dtype=np.float64) for column in columns]
        all_right = np.sum(weights_B * (labels == predictions).all(axis=1), dtype=np.float64)
        return np.concatenate([np.stack(sums, axis=1), [[all_right, weights_B.sum(), weights_B.sum()]]])

    def scores(self, tally: np.ndarray) -> dict[str, float]:
        by_label, (right, samples, _) = tally[:-1], tally[-1].tolist()
        return {
            "accuracy": ratio(right, samples),
            "micro_f1": micro_score(by_label).f1,
            "macro_f1": macro_score(by_label).f1,
        }

    def class_counts(self, tally: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
        return self.labels, tally[:-1]

    def confusion(self, tally: np.ndarray) -> np.ndarray | None:
        return None

    def examples(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(0)
        labels = rng.integers(0, 2, (size, len(self.labels))).astype(np.int32)
        return labels, rng.normal(size=labels.shape).astype(np.float32)

    def occurrences(self, source: Source) -> np.ndarray:
        if not isinstance(source, TextSource):
            raise TypeError(f"source: expected texts, received {type(source).__name__}.")
        found = [label for index in range(len(source)) for label in source.labels_of(index)]
        return np.bincount(found, minlength=len(self.labels))
