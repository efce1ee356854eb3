"""The training loop: steps, epochs, validation, checkpoints. The same on one worker and on many."""

import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfpipe.core.errors import StoppedError, TrainingError
from tfpipe.core.schedule import LearningRateSchedule, scaled_learning_rate
from tfpipe.data.pipeline import Batch, RowReader, evaluation_batches, training_batches
from tfpipe.data.sharding import num_steps
from tfpipe.distributed import World
from tfpipe.models.assembly import Parts
from tfpipe.settings import Config, TrainingConfig
from tfpipe.tasks import image_classification as task
from tfpipe.training.checkpoints import CheckpointFolder, TrainingState
from tfpipe.training.optimizer import DataParallelOptimizer
from tfpipe.training.progress import Progress
from tfpipe.training.signals import StopRequest
from tfpipe.training.unfreezing import freeze, stage

logger = logging.getLogger(__name__)

# Entries of a step's reduced sums, after those of task.counts.
_CORRUPT, _STOP = 3, 4


@dataclass(frozen=True)
class Evaluation:
    """Metrics of a data set and its confusion matrix (classes, classes), true class by row."""

    metrics: dict[str, float]
    confusion: np.ndarray


class TrainingLoop:
    """Trains the network of a model.

    Args:
        parts: The model; its network is changed in place.
        config: The run.
        world: The workers.
        train: Training samples.
        validation: Validation samples, or None.
        stop: Asked after each step.
    """

    def __init__(
        self,
        parts: Parts,
        config: Config,
        world: World,
        train: RowReader,
        validation: RowReader | None,
        stop: StopRequest,
    ) -> None:
        self.parts, self.config, self.world = parts, config, world
        self._train, self._validation, self._stop = train, validation, stop
        self.steps_per_epoch = num_steps(len(train.source), config.training.batch_size)
        self.schedule = build_schedule(config.training, self.steps_per_epoch)
        self.optimizer = build_optimizer(config.training, parts.network, world)
        self._steps: dict[int, Callable[..., Any]] = {}
        self._evaluate = tf.function(self._evaluate_batch, input_signature=self._signature()[:3])

    def variables(self) -> dict[str, Sequence[Any]]:
        """Everything a checkpoint holds, by group."""
        return {"model": self.parts.model.variables, "optimizer": self.optimizer.variables}

    def start_together(self) -> None:
        """Give every worker the chief's variables, and each its own dropout."""
        self.world.broadcast_variables([v for group in self.variables().values() for v in group])
        for variable in self.parts.network.variables:
            if variable.path.endswith("seed_generator_state"):
                state = variable.numpy()
                state[0] += self.world.rank
                variable.assign(state)

    def run(
        self, state: TrainingState, checkpoints: CheckpointFolder, on_epoch: Callable[[int, dict[str, float]], None]
    ) -> None:
        """Train from `state` to the end.

        Args:
            state: Brought up to date in place.
            checkpoints: Where the chief saves.
            on_epoch: Called on every worker with the epoch and its metrics.

        Raises:
            StoppedError: A signal came; a checkpoint was saved.
            TrainingError: The loss is not finite, or too many samples are corrupt.
        """
        epochs = self.config.training.epochs
        progress = Progress(epochs=epochs, steps_per_epoch=self.steps_per_epoch, shown=self.world.is_chief)
        while state.epoch < epochs and not self._should_stop_early(state):
            started, samples = time.monotonic(), state.samples_seen
            progress.start_epoch(state.epoch, state.step_in_epoch)
            norm = self._train_epoch(state, checkpoints, progress)
            rate = progress.samples_per_second
            self._average_moving_statistics()
            metrics = self._epoch_metrics(state, checkpoints) | {
                "learning_rate": state.learning_rate,
                "gradient_norm": norm,
                "samples_per_second": rate if state.samples_seen > samples else math.nan,
                "corrupt_samples": state.corrupt_samples,
            }
            state.wall_time_s += time.monotonic() - started
            improved = self._note_best(state, metrics)
            finished = state.epoch
            state.history.append({"epoch": float(finished), **metrics})
            state.epoch, state.step_in_epoch = finished + 1, 0
            state.epoch_totals, state.corrupt_samples = [], 0.0
            self._save(state, checkpoints, best=improved)
            progress.end_epoch(_epoch_line(metrics) + ("  *" if improved else ""))
            on_epoch(finished, metrics)

    def evaluate(self, reader: RowReader) -> Evaluation | None:
        """Score a data set, each worker its share; None where a stop was asked for meanwhile."""
        classes = len(self.parts.labels)
        totals, matrix = np.zeros(3, np.float64), np.zeros((classes, classes), np.float64)
        for batch in evaluation_batches(reader, batch_size=self._evaluation_batch_size(), world=self.world):
            counts, confusion = self._evaluate(batch.images, batch.labels, batch.weights)
            totals += counts.numpy()
            matrix += confusion.numpy()
            if self._stop:
                break
        stopped = float(bool(self._stop))
        sums, matrix_sum = self.world.allreduce_sum(
            [tf.constant([*totals, stopped], tf.float64), tf.constant(matrix, tf.float64)]
        )
        if float(sums[3]) > 0:
            return None
        return Evaluation(task.metrics(sums.numpy()), matrix_sum.numpy())

    def _train_epoch(self, state: TrainingState, checkpoints: CheckpointFolder, progress: Progress) -> float:
        """Steps until the epoch is done; gives the mean gradient norm."""
        step_function = self._step_function(state.epoch)
        norms = []
        totals = np.array(state.epoch_totals or [0.0, 0.0, 0.0])
        batches = training_batches(
            self._train, batch_size=self.config.training.batch_size, seed=self.config.training.seed,
            epoch=state.epoch, world=self.world, first_step=state.step_in_epoch,
        )  # fmt: skip
        for batch in batches:
            state.learning_rate = self.schedule.at(state.step)
            sums, norm = step_function(*batch, float(bool(self._stop)), state.learning_rate)
            sums = sums.numpy().astype(np.float64)
            totals += sums[:3]
            state.epoch_totals = totals.tolist()
            state.corrupt_samples += sums[_CORRUPT]
            state.samples_seen += sums[0]
            state.step, state.step_in_epoch = state.step + 1, state.step_in_epoch + 1
            norms.append(float(norm))
            self._check_step(state, sums)
            progress.step(loss=task.metrics(totals)["loss"], samples=sums[0])
            self._save_between_epochs(state, checkpoints, stopped=sums[_STOP] > 0)
        return float(np.mean(norms)) if norms else math.nan

    def _save_between_epochs(self, state: TrainingState, checkpoints: CheckpointFolder, *, stopped: bool) -> None:
        every = self.config.training.checkpoint_steps
        if stopped:
            self._save_and_stop(state, checkpoints)
        if every is not None and state.step % every == 0 and state.step_in_epoch < self.steps_per_epoch:
            self._average_moving_statistics()
            self._save(state, checkpoints)

    def _save_and_stop(self, state: TrainingState, checkpoints: CheckpointFolder) -> None:
        self._average_moving_statistics()
        self._save(state, checkpoints)
        cause = self._stop.signal_name or "a signal to another worker"
        raise StoppedError(
            f"{cause} after step {state.step}; the state is saved. "
            f"Go on with: python -m tfpipe.train --config {self.config.output_dir}/config.yaml --resume"
        )

    def _save(self, state: TrainingState, checkpoints: CheckpointFolder, *, best: bool = False) -> None:
        if self.world.is_chief:
            checkpoints.save(self.variables(), state, best=best)

    def _check_step(self, state: TrainingState, sums: np.ndarray) -> None:
        # Under loss scaling a step that overflows is skipped, not an error.
        if not math.isfinite(sums[1]) and not self.optimizer.scaled:
            raise TrainingError(
                f"step {state.step}: expected a finite loss, received {sums[1]}. Lower training.learning_rate "
                f"({state.learning_rate:g} here), set training.gradient_clip_norm, or lengthen training.warmup_epochs."
            )
        limit = self.config.data.max_corrupt_fraction * len(self._train.source)
        if state.corrupt_samples > limit:
            raise TrainingError(
                f"data.max_corrupt_fraction: expected at most {self.config.data.max_corrupt_fraction:.1%} unreadable "
                f"samples, received {int(state.corrupt_samples)} of {len(self._train.source)} already. "
                "`python -m tfpipe.data validate` lists them."
            )

    def _epoch_metrics(self, state: TrainingState, checkpoints: CheckpointFolder) -> dict[str, float]:
        metrics = task.metrics(np.array(state.epoch_totals))
        if self._validation is None:
            return metrics
        evaluation = self.evaluate(self._validation)
        if evaluation is None:
            self._save_and_stop(state, checkpoints)
            raise AssertionError  # _save_and_stop raises
        return metrics | {f"val_{name}": value for name, value in evaluation.metrics.items()}

    def _note_best(self, state: TrainingState, metrics: dict[str, float]) -> bool:
        name = self.config.training.monitor
        # A val_* monitor without validation data: the training loss has to do.
        value = metrics.get(name, metrics["loss"])
        smaller_is_better = name.endswith("loss") or name not in metrics
        better = (
            state.best_value is None
            or math.isnan(state.best_value)
            or (value < state.best_value if smaller_is_better else value > state.best_value)
        )
        if better:
            state.best_value, state.best_epoch, state.epochs_without_improvement = value, state.epoch, 0
        else:
            state.epochs_without_improvement += 1
        return better

    def _should_stop_early(self, state: TrainingState) -> bool:
        patience = self.config.training.early_stopping_epochs
        if patience is None or state.epochs_without_improvement < patience:
            return False
        logger.info("early stopping: no better %s for %d epochs", self.config.training.monitor, patience)
        return True

    def _average_moving_statistics(self) -> None:
        """Bring the workers' BatchNormalization statistics together; each saw its own samples."""
        variables = [
            variable
            for layer in self.parts.network._flatten_layers()
            if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
            for variable in (layer.moving_mean, layer.moving_variance)
        ]
        if self.world.size == 1 or not variables:
            return
        sums = self.world.allreduce_sum([variable.value for variable in variables])
        for variable, total in zip(variables, sums, strict=True):
            variable.assign(total / self.world.size)

    def _step_function(self, epoch: int) -> Callable[..., Any]:
        """The compiled step for the layers that train in this epoch."""
        key = stage(self.config.model, epoch)
        if key not in self._steps:
            variables = freeze(self.parts.network, self.config.model, epoch)
            # Traced anew for each stage: which layers train is fixed when the graph is made.
            self._steps[key] = tf.function(
                lambda *inputs: self._step(variables, Batch(*inputs[:5]), *inputs[5:]),
                input_signature=[*self._signature(), tf.TensorSpec(()), tf.TensorSpec(())],
            )
        return self._steps[key]

    def _step(self, variables: list[Any], batch: Batch, stop: Any, learning_rate: Any) -> tuple[Any, Any]:
        pieces = self.config.training.accumulation_steps
        if pieces == 1:
            gradients, counts = self._gradients(variables, batch)
        else:
            gradients, counts = self._accumulated_gradients(variables, batch, pieces)
        sums = tf.concat([counts, [batch.num_corrupt, stop]], axis=0)
        self.optimizer.learning_rate.assign(learning_rate)
        return self.optimizer.apply_sums(gradients, variables, sums)

    def _gradients(self, variables: list[Any], batch: Batch) -> tuple[list[Any], Any]:
        """Sums over examples: gradients of the scaled loss, and task.counts."""
        preprocessing, network = self.parts.preprocessing, self.parts.network
        images = preprocessing.augmentation(batch.images, batch.draws, training=True)
        rows = preprocessing.normalized(images)
        with tf.GradientTape() as tape:
            logits = network(rows, training=True)
            losses = task.losses(batch.labels, logits, label_smoothing=self.config.training.label_smoothing)
            loss = tf.reduce_sum(losses * batch.weights)
            if network.losses:
                # A regularisation term stands once in the mean, so once per unit of weight in the sum.
                loss += tf.add_n(network.losses) * tf.reduce_sum(batch.weights)
            scaled = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(
            scaled, [variable.value for variable in variables], unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        return gradients, task.counts(batch.labels, logits, losses, batch.weights)

    def _accumulated_gradients(self, variables: list[Any], batch: Batch, pieces: int) -> tuple[list[Any], Any]:
        """As `_gradients`, over micro-batches one after the other; nothing is communicated in between."""
        size = tf.shape(batch.images)[0]
        pieces = tf.minimum(pieces, size)

        def accumulate(piece: Any, gradients: list[Any], counts: Any) -> tuple[Any, list[Any], Any]:
            start, end = piece * size // pieces, (piece + 1) * size // pieces
            images, labels, weights, draws = (tensor[start:end] for tensor in batch[:4])
            part = Batch(images, labels, weights, draws, batch.num_corrupt)
            more, more_counts = self._gradients(variables, part)
            return (
                piece + 1,
                [a + tf.convert_to_tensor(b) for a, b in zip(gradients, more, strict=True)],
                counts + more_counts,
            )

        zeros = [tf.zeros(variable.shape, variable.dtype) for variable in variables]
        _, gradients, counts = tf.while_loop(
            lambda piece, *_: piece < pieces, accumulate, (tf.constant(0), zeros, tf.zeros(3)), parallel_iterations=1
        )
        return gradients, counts

    def _evaluate_batch(self, images: Any, labels: Any, weights: Any) -> tuple[Any, Any]:
        logits = self.parts.network(self.parts.preprocessing.normalized(images), training=False)
        losses = task.losses(labels, logits, label_smoothing=0.0)
        return task.counts(labels, logits, losses, weights), task.confusion(labels, logits, weights)

    def _evaluation_batch_size(self) -> int:
        return max(self.world.size, self.config.training.batch_size // self.config.training.accumulation_steps)

    def _signature(self) -> list[Any]:
        draws = tf.TensorSpec((None, None), tf.float32)
        images = tf.TensorSpec((None, *self._train.row_shape), tf.float32)
        return [images, tf.TensorSpec((None,), tf.int32), tf.TensorSpec((None,), tf.float32), draws, tf.TensorSpec(())]


def build_schedule(config: TrainingConfig, steps_per_epoch: int) -> LearningRateSchedule:
    """The learning rate of a run."""
    return LearningRateSchedule(
        peak=scaled_learning_rate(
            config.learning_rate, batch_size=config.batch_size, reference_batch_size=config.reference_batch_size
        ),
        shape=config.schedule,
        warmup_steps=round(config.warmup_epochs * steps_per_epoch),
        total_steps=config.epochs * steps_per_epoch,
        restart_steps=round(config.restart_epochs * steps_per_epoch),
        final_fraction=config.final_learning_rate_fraction,
    )


def build_optimizer(config: TrainingConfig, network: keras.Model, world: World) -> DataParallelOptimizer:
    """The optimizer of a run, built for every variable of the network that can train."""
    if config.optimizer == "sgd":
        inner = keras.optimizers.SGD(
            config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay or None
        )
    elif config.optimizer == "adam":
        inner = keras.optimizers.Adam(config.learning_rate)
    else:
        inner = keras.optimizers.AdamW(config.learning_rate, weight_decay=config.weight_decay)
    variables = network.trainable_variables
    if config.weight_decay:
        # Biases, scales and shifts are left alone. Source: He et al. 2019, arXiv:1812.01187, section 3.1.
        inner.exclude_from_weight_decay(var_list=[variable for variable in variables if len(variable.shape) <= 1])
    optimizer = DataParallelOptimizer(
        inner, world, clip_norm=config.gradient_clip_norm, scale_loss=config.precision == "mixed_float16"
    )
    optimizer.build(variables)
    return optimizer


def _epoch_line(metrics: dict[str, float]) -> str:
    shown: dict[str, float] = {
        name: metrics[name] for name in ("loss", "accuracy", "val_loss", "val_accuracy") if name in metrics
    }
    line = task.summary_line(shown)
    rate = metrics["samples_per_second"]
    return line if math.isnan(rate) else f"{line}  {rate:.0f} images/s"
