"""Scoring a data set, each worker its share."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from tfpipe.data.pipeline import RowReader, evaluation_batches
from tfpipe.distributed import World
from tfpipe.models.assembly import Parts
from tfpipe.settings import TrainingConfig
from tfpipe.tasks import image_classification as task
from tfpipe.training import user_metrics
from tfpipe.training.recipe import build_losses
from tfpipe.training.signals import StopRequest


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a data set and its confusion matrix (classes, classes), true class by row."""

    metrics: dict[str, float]
    confusion: np.ndarray


class Evaluator:
    """Scores data sets with the weights as they are.

    Args:
        parts: The model.
        config: Of the run; gives the batch size, the loss and the user's metrics.
        world: The workers.
        row_shape: (height, width, 3) of a resized image.
        stop: Asked after each batch.
    """

    def __init__(
        self,
        parts: Parts,
        config: TrainingConfig,
        world: World,
        row_shape: tuple[int, int, int],
        stop: StopRequest,
    ) -> None:
        self._parts, self._world, self._stop = parts, world, stop
        self._losses = build_losses(config, smoothing=0.0)
        self._metrics = user_metrics.build_metrics(config)
        # As much as a step of training holds in memory.
        self._batch_size = max(world.size, config.batch_size // config.accumulation_steps)
        rows = tf.TensorSpec((None, *row_shape), tf.float32)
        self._evaluate = tf.function(
            self._evaluate_batch,
            input_signature=[rows, tf.TensorSpec((None,), tf.int32), tf.TensorSpec((None,), tf.float32)],
        )

    def evaluate(self, reader: RowReader) -> Evaluation | None:
        """Score a data set, each worker its share; None where a stop was asked for meanwhile."""
        classes = len(self._parts.labels)
        for metric in self._metrics:
            metric.reset_state()
        totals, matrix = np.zeros(3, np.float64), np.zeros((classes, classes), np.float64)
        for batch in evaluation_batches(reader, batch_size=self._batch_size, world=self._world):
            counts, confusion = self._evaluate(batch.images, batch.labels, batch.weights)
            totals += counts.numpy()
            matrix += confusion.numpy()
            if self._stop:
                break
        stopped = float(bool(self._stop))
        sums, matrix_sum = self._world.allreduce_sum(
            [tf.constant([*totals, stopped], tf.float64), tf.constant(matrix, tf.float64)]
        )
        if float(sums[3]) > 0:
            return None
        metrics = task.metrics(sums.numpy()) | user_metrics.results(self._metrics, self._world)
        return Evaluation(metrics, matrix_sum.numpy())

    def _evaluate_batch(self, images: Any, labels: Any, weights: Any) -> tuple[Any, Any]:
        logits = self._parts.network(self._parts.preprocessing.normalized(images), training=False)
        losses = self._losses(labels, logits)
        user_metrics.update(self._metrics, labels, logits, weights)
        return task.counts(labels, logits, losses, weights), task.confusion(labels, logits, weights)
