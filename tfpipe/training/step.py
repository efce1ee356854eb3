"""One optimizer update, compiled: augmentation, forward, loss, gradients over micro-batches, reduction."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from tfpipe.data.pipeline import Batch
from tfpipe.models.assembly import Parts
from tfpipe.settings import Config
from tfpipe.tasks.task import NUM_COUNTS
from tfpipe.training.batch_norm import SynchronizedStatistics
from tfpipe.training.optimizer import DataParallelOptimizer
from tfpipe.training.pruning import MagnitudePruning
from tfpipe.training.recipe import build_losses
from tfpipe.training.rematerialization import recomputing
from tfpipe.training.unfreezing import freeze, stage

# Entries of a step's reduced sums, after those of Task.counts.
CORRUPT, STOP, END = range(NUM_COUNTS, NUM_COUNTS + 3)


class TrainingStep:
    """The updates of a run.

    Args:
        parts: The model; its network is changed in place.
        config: The run.
        optimizer: Reduces over the workers and updates.
        pruning: Keeps at 0 what it has pruned.
        specs: What the tensors of a batch are.
        class_weights: (classes,) float32, how much an example of each class counts in the gradient; None: alike.
    """

    def __init__(
        self,
        parts: Parts,
        config: Config,
        optimizer: DataParallelOptimizer,
        pruning: MagnitudePruning,
        specs: Batch,
        class_weights: np.ndarray | None = None,
    ) -> None:
        self.parts, self.config, self.optimizer = parts, config, optimizer
        synchronized = config.training.sync_batch_norm and optimizer.world.size > 1
        self._statistics = SynchronizedStatistics(parts.network, optimizer.world) if synchronized else None
        self._pruning, self._specs, self._class_weights = pruning, specs, class_weights
        self._losses = build_losses(config.training, parts.task, smoothing=config.training.label_smoothing)
        network = parts.network
        self._forward: Callable[[Any], Any] = partial(network, training=True)
        if config.training.rematerialization == "segments":
            self._forward = recomputing(network)
        self._timed = optimizer.world.size > 1
        self._compiled: dict[int, Callable[..., Any]] = {}

    def at(self, epoch: int) -> Callable[..., Any]:
        """The compiled step for the layers that train in this epoch.

        Returns:
            A function of the five parts of a `Batch`, whether this worker wants to stop or to end the run (each 1.0 or
            0.0) and the learning rate. It gives the sums over all workers, (7,) float32: those of `Task.counts`,
            corrupt samples, workers that want to stop, workers that want to end; the global norm of the averaged
            gradients; and, where there are several workers, the time (as of `time.time`) at which this worker's own
            gradients were computed, (2,) of which the second number means nothing.
        """
        key = stage(self.config.model, epoch)
        if key not in self._compiled:
            # Traced anew for each stage: which layers train is fixed when the graph is made.
            self._compiled[key] = self._compile(epoch, alone=False)
        return self._compiled[key]

    def alone(self, epoch: int) -> Callable[..., Any]:
        """The step that `at` gives, as one worker would take it by itself: no gradient is sent."""
        return self._compile(epoch, alone=True)

    def _compile(self, epoch: int, *, alone: bool) -> Callable[..., Any]:
        variables = freeze(self.parts.network, self.config.model, epoch)
        return tf.function(  # type: ignore[no-any-return]
            lambda *inputs: self._step(variables, Batch(*inputs[:5]), *inputs[5:], alone=alone),
            input_signature=[*self._specs, tf.TensorSpec((2,)), tf.TensorSpec(())],
            # As in Keras's own fit(). To rewrite the source of all that is called takes seconds of each start.
            autograph=False,
        )

    def _step(
        self, variables: list[Any], batch: Batch, wishes: Any, learning_rate: Any, *, alone: bool
    ) -> tuple[Any, Any, Any]:
        pieces = self.config.training.accumulation_steps
        if pieces == 1:
            gradients, counts = self._gradients(variables, batch)
        else:
            gradients, counts = self._accumulated_gradients(variables, batch, pieces)
        sums = tf.concat([counts, [batch.num_corrupt], wishes], axis=0)
        ready = moment_after(tf.nest.flatten(gradients, expand_composites=True)) if self._timed else tf.zeros(2)
        self.optimizer.learning_rate.assign(learning_rate)
        masks = self._pruning.masks()
        total, norm = self.optimizer.apply_sums(gradients, variables, sums, alone=alone)
        self._pruning.keep(masks)
        return total[1:], norm, ready

    def _gradients(self, variables: list[Any], batch: Batch) -> tuple[list[Any], Any]:
        """Sums over examples: gradients of the scaled loss; the weight in them, followed by Task.counts."""
        task, network = self.parts.task, self.parts.network
        rows = self.parts.training_rows(batch.rows, batch.draws)
        if self._statistics is not None:
            self._statistics.weigh(batch.weights)
        with tf.GradientTape() as tape:
            compared = task.compared(batch.labels, self._forward(rows), batch.weights)
            weights = compared.weights
            if self._class_weights is not None:
                weights = task.class_weighted(compared, tf.constant(self._class_weights))
            weight = tf.reduce_sum(weights)
            losses = self._losses(compared.targets, compared.logits)
            loss = tf.reduce_sum(losses * weights)
            if network.losses:
                # A regularisation term stands once in the mean, so once per unit of weight in the sum.
                loss += tf.add_n(network.losses) * weight
            scaled = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(
            scaled, [variable.value for variable in variables], unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        counts = task.counts(compared, losses, batch.weights)
        return gradients, tf.concat([[weight], counts], axis=0)

    def _accumulated_gradients(self, variables: list[Any], batch: Batch, pieces: int) -> tuple[list[Any], Any]:
        """As `_gradients`, over micro-batches one after the other; nothing is communicated in between."""
        size = tf.shape(batch.weights)[0]
        pieces = tf.minimum(pieces, size)

        def accumulate(piece: Any, gradients: list[Any], counts: Any) -> tuple[Any, list[Any], Any]:
            start, end = piece * size // pieces, (piece + 1) * size // pieces
            rows, labels, weights, draws = (tensor[start:end] for tensor in batch[:4])
            part = Batch(rows, labels, weights, draws, batch.num_corrupt)
            more, more_counts = self._gradients(variables, part)
            return (
                piece + 1,
                [a + tf.convert_to_tensor(b) for a, b in zip(gradients, more, strict=True)],
                counts + more_counts,
            )

        zeros = [tf.zeros(variable.shape, variable.dtype) for variable in variables]
        _, gradients, counts = tf.while_loop(
            lambda piece, *_: piece < pieces,
            accumulate,
            (tf.constant(0), zeros, tf.zeros(1 + NUM_COUNTS)),
            parallel_iterations=1,
        )
        return gradients, counts


def moment_after(tensors: list[Any]) -> Any:
    """The time at which all of these are computed. Nothing waits for it: gradients are sent as they come."""
    with tf.control_dependencies(tensors):
        # For a GPU computed means queued. A number copied out of it comes when the queue before it is done.
        mark = tf.reshape(tensors[0], [-1])[:1]
    with tf.device("CPU:0"):
        mark = tf.reduce_sum(tf.cast(mark, tf.float64))
        with tf.control_dependencies([mark]):
            # The copy is given too: TensorFlow leaves out what nobody reads.
            return tf.stack([tf.timestamp(), mark])
