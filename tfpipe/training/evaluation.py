"""Scoring a data set, each worker its share."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from tfpipe.data.pipeline import Batch, Reader, evaluation_batches
from tfpipe.distributed import World
from tfpipe.models.assembly import Parts
from tfpipe.tasks.task import NUM_COUNTS
from tfpipe.training import user_metrics
from tfpipe.training.recipe import build_losses
from tfpipe.training.signals import StopRequest
from tfpipe.training_settings import TrainingConfig


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a data set, and the task's tally of its answers."""

    metrics: dict[str, float]
    tally: np.ndarray


class Evaluator:
    """Scores data sets with the weights as they are.

    Args:
        parts: The model.
        config: Of the run; gives the batch size, the loss and the user's metrics.
        world: The workers.
        specs: What the tensors of a batch are.
        stop: Asked after each batch.
    """

    def __init__(
        self,
        parts: Parts,
        config: TrainingConfig,
        world: World,
        specs: Batch,
        stop: StopRequest,
    ) -> None:
        self._parts, self._world, self._stop = parts, world, stop
        self._losses = build_losses(config, parts.task, smoothing=0.0)
        self._metrics = user_metrics.build_metrics(config, parts.task)
        # As much as a step of training holds in memory.
        self._batch_size = max(world.size, config.batch_size // config.accumulation_steps)
        self._evaluate = tf.function(
            self._evaluate_batch, input_signature=[specs.rows, specs.labels, specs.weights], autograph=False
        )

    def evaluate(self, reader: Reader) -> Evaluation | None:
        """Score a data set, each worker its share; None where a stop was asked for meanwhile."""
        task = self._parts.task
        for metric in self._metrics:
            metric.reset_state()
        totals, tally = np.zeros(NUM_COUNTS, np.float64), np.zeros(task.tally_shape(), np.float64)
        for batch in evaluation_batches(reader, batch_size=self._batch_size, world=self._world):
            counts, predictions = self._evaluate(batch.rows, batch.labels, batch.weights)
            totals += counts.numpy()
            tally += task.tally(batch.labels.numpy(), predictions.numpy(), batch.weights.numpy())
            if self._stop:
                break
        stopped = float(bool(self._stop))
        sums, total = self._world.allreduce_sum(
            [tf.constant([*totals, stopped], tf.float64), tf.constant(tally, tf.float64)]
        )
        if float(sums[NUM_COUNTS]) > 0:
            return None
        tally = total.numpy()
        metrics = task.metrics(sums.numpy()) | task.scores(tally)
        return Evaluation(metrics | user_metrics.results(self._metrics, self._world), tally)

    def _evaluate_batch(self, rows: Any, labels: Any, weights: Any) -> tuple[Any, Any]:
        task = self._parts.task
        logits = self._parts.network(self._parts.inference_rows(rows), training=False)
        compared = task.compared(labels, logits, weights)
        losses = self._losses(compared.targets, compared.logits)
        user_metrics.update(self._metrics, task, compared)
        return task.counts(compared, losses, weights), task.predictions(labels, task.probabilities(logits))
