"""The training loop: steps, epochs, validation, checkpoints. The same on one worker and on many."""

import logging
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from tfpipe.core.errors import StoppedError, TrainingError
from tfpipe.data.pipeline import Batch, Reader, batch_specs, example_batch, training_batches
from tfpipe.data.sharding import rank_epoch, rank_share, step_order
from tfpipe.distributed import World
from tfpipe.models.assembly import Parts
from tfpipe.settings import Config
from tfpipe.tasks.task import LOSS, NUM_COUNTS, SAMPLES, summary_line
from tfpipe.training.averaging import averaged
from tfpipe.training.checkpoint_writer import CheckpointWriter
from tfpipe.training.checkpoints import TrainingState
from tfpipe.training.class_weights import class_weights
from tfpipe.training.evaluation import Evaluation, Evaluator
from tfpipe.training.limits import steps_of_epoch
from tfpipe.training.observers import Observer, StepRecord
from tfpipe.training.progress import Progress
from tfpipe.training.pruning import MagnitudePruning
from tfpipe.training.recipe import build_optimizer, build_schedule
from tfpipe.training.sentinel import check_shares
from tfpipe.training.signals import StopRequest
from tfpipe.training.step import CORRUPT, END, STOP, TrainingStep

logger = logging.getLogger(__name__)

# Metrics of the line that a person reads after an epoch, where the task has them.
_SHOWN = ("loss", "accuracy", "val_loss", "val_accuracy")
# Of a worker's part of a step that went wrong; a message with a thousand names is read by nobody.
_NAMED_SAMPLES = 3


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
        train: Reader,
        validation: Reader | None,
        stop: StopRequest,
    ) -> None:
        self.parts, self.config, self.world = parts, config, world
        self._train, self._validation, self._stop = train, validation, stop
        self.steps_per_epoch = steps_of_epoch(len(train.source), config)
        self.schedule = build_schedule(config.training, self.steps_per_epoch)
        self.optimizer = build_optimizer(config.training, parts.network, world)
        self.pruning = MagnitudePruning(config.training, parts.network, self.optimizer, self.steps_per_epoch)
        weights = class_weights(config.training, parts.labels, parts.task.occurrences(train.source))
        specs = batch_specs(train)
        self.training_step = TrainingStep(parts, config, self.optimizer, self.pruning, specs, weights)
        self._since = time.monotonic()
        self._ended: str | None = None
        self._evaluator = Evaluator(parts, config.training, world, specs, stop)

    def variables(self) -> dict[str, Sequence[Any]]:
        """Everything a checkpoint holds, by group."""
        return {"model": self.parts.model.variables, "optimizer": self.optimizer.variables}

    def synchronized_variables(self) -> list[Any]:
        """What must be equal on every worker after each step; moving statistics are averaged later, seeds differ."""
        return [*self.parts.network.trainable_variables, *self.optimizer.variables]

    def example_batch(self, size: int) -> Batch:
        """Training samples for a step whose result counts for nothing."""
        return example_batch(self._train, size)

    def start_together(self) -> None:
        """Give every worker the chief's variables, and each its own dropout."""
        self.world.broadcast_variables([v for group in self.variables().values() for v in group])
        for variable in self.parts.network.variables:
            if variable.path.endswith("seed_generator_state"):
                state = variable.numpy()
                state[0] += self.world.rank
                variable.assign(state)

    def run(self, state: TrainingState, checkpoints: CheckpointWriter, observers: Sequence[Observer]) -> None:
        """Train from `state` to the end.

        Args:
            state: Brought up to date in place.
            checkpoints: Where the chief saves.
            observers: Told what happens, on every worker.

        Raises:
            StoppedError: A signal came; a checkpoint was saved.
            TrainingError: The loss is not finite, or too many samples are corrupt.
        """
        epochs, observers = self.config.training.epochs, (self.pruning, *observers)
        progress = Progress(epochs=epochs, steps_per_epoch=self.steps_per_epoch, shown=self.world.is_chief)
        if self.world.is_chief:
            checkpoints.prepare(self.variables())
        for observer in observers:
            observer.on_train_begin()
        self._since, self._ended = time.monotonic(), None
        while state.epoch < epochs and state.ended is None and not self._should_stop_early(state):
            samples = state.samples_seen
            progress.start_epoch(state.epoch, state.step_in_epoch)
            self._train_epoch(state, checkpoints, progress, observers)
            rate = progress.samples_per_second
            self.average_moving_statistics()
            metrics = self._epoch_metrics(state, checkpoints) | {
                "learning_rate": state.learning_rate,
                "samples_per_second": rate if state.samples_seen > samples else math.nan,
                "corrupt_samples": state.corrupt_samples,
            }
            for observer in observers:
                metrics |= observer.figures()
            improved = self._note_best(state, metrics)
            finished = state.epoch
            state.history.append({"epoch": float(finished), **metrics})
            state.epoch, state.step_in_epoch = finished + 1, 0
            state.epoch_totals, state.corrupt_samples = [], 0.0
            for observer in observers:
                observer.before_checkpoint(finished, metrics, state)
            state.ended = self._ended or self._agreed_reason(observers)
            self._save(state, checkpoints, best=improved)
            progress.end_epoch(_epoch_line(metrics, f"val_{self.parts.task.headline}") + ("  *" if improved else ""))
            for observer in observers:
                observer.on_epoch_end(finished, metrics)
        self.world.on_chief(checkpoints.finish)
        if state.ended is not None and self.world.is_chief:
            logger.info("ended after %d steps: %s", state.step, state.ended)
        for observer in observers:
            observer.on_train_end()

    def evaluate(self, reader: Reader) -> Evaluation | None:
        """Score a data set with the weights as they are; None where a stop was asked for meanwhile."""
        return self._evaluator.evaluate(reader)

    def _train_epoch(
        self,
        state: TrainingState,
        checkpoints: CheckpointWriter,
        progress: Progress,
        observers: Sequence[Observer],
    ) -> None:
        """Steps until the epoch is done."""
        # What a callback finds as the rate is that of the step to come.
        self.optimizer.learning_rate.assign(self.schedule.at(state.step) * state.learning_rate_factor)
        for observer in observers:
            observer.on_epoch_begin(state.epoch)
        self._check_shares(state)
        step_function = self.training_step.at(state.epoch)
        task = self.parts.task
        totals = np.array(state.epoch_totals or [0.0] * NUM_COUNTS)
        batches = training_batches(
            self._train, batch_size=self.config.training.batch_size, seed=self.config.training.seed,
            epoch=state.epoch, world=self.world, first_step=state.step_in_epoch, steps=self.steps_per_epoch,
        )  # fmt: skip
        for batch, input_s in _timed(batches):
            started = time.perf_counter()
            state.learning_rate = self.schedule.at(state.step) * state.learning_rate_factor
            for observer in observers:
                observer.on_step_begin(state.step)
            wishes = [float(bool(self._stop)), float(_end_reason(observers) is not None)]
            sums, norm, ready = step_function(*batch, wishes, state.learning_rate)
            sums, ended = sums.numpy().astype(np.float64), time.time()
            totals += sums[:NUM_COUNTS]
            state.epoch_totals = totals.tolist()
            state.corrupt_samples += sums[CORRUPT]
            state.samples_seen += sums[SAMPLES]
            state.step, state.step_in_epoch = state.step + 1, state.step_in_epoch + 1
            self._check_step(state, sums, float(norm), checkpoints)
            progress.step(loss=task.metrics(totals)["loss"], samples=sums[SAMPLES])
            record = StepRecord(
                step=state.step,
                loss=task.metrics(sums)["loss"],
                samples=float(sums[SAMPLES]),
                gradient_norm=float(norm),
                learning_rate=state.learning_rate,
                input_s=input_s,
                step_s=time.perf_counter() - started,
                after_gradients_s=ended - float(ready[0]) if self.world.size > 1 else 0.0,
            )
            for observer in observers:
                observer.on_step(record)
            self._save_between_epochs(state, checkpoints, stopped=sums[STOP] > 0)
            if sums[END] > 0:
                self._ended = self._agreed_reason(observers)
                break

    def _check_shares(self, state: TrainingState) -> None:
        config, num_samples = self.config.training, len(self._train.source)
        plan = {"batch_size": config.batch_size, "seed": config.seed, "epoch": state.epoch}
        indices, weights, share = rank_epoch(
            num_samples,
            **plan,
            rank=self.world.rank,
            world_size=self.world.size,
            first_step=state.step_in_epoch,
            steps=self.steps_per_epoch,
            lengths=self._train.lengths,
        )
        order = step_order(num_samples, **plan, lengths=self._train.lengths)
        left = order[state.step_in_epoch * config.batch_size : self.steps_per_epoch * config.batch_size]
        check_shares(indices[weights > 0], -(-len(indices) // share), left, self.world, epoch=state.epoch)

    def _save_between_epochs(self, state: TrainingState, checkpoints: CheckpointWriter, *, stopped: bool) -> None:
        every = self.config.training.checkpoint_steps
        if stopped:
            self._save_and_stop(state, checkpoints)
        if every is not None and state.step % every == 0 and state.step_in_epoch < self.steps_per_epoch:
            self.average_moving_statistics()
            self._save(state, checkpoints)

    def _save_and_stop(self, state: TrainingState, checkpoints: CheckpointWriter) -> None:
        self.average_moving_statistics()
        self._save(state, checkpoints)
        # All wait for the chief: the launcher ends the others as soon as one of them ends.
        self.world.on_chief(checkpoints.finish)
        cause = self._stop.signal_name or "a signal to another worker"
        raise StoppedError(
            f"{cause} after step {state.step}; the state is saved. "
            f"Go on with: python -m tfpipe.train --config {self.config.output_dir}/config.yaml --resume"
        )

    def _save(self, state: TrainingState, checkpoints: CheckpointWriter, *, best: bool = False) -> None:
        now = time.monotonic()
        state.wall_time_s, self._since = state.wall_time_s + now - self._since, now
        if self.world.is_chief:
            checkpoints.save(self.variables(), state, best=best)

    def _agreed_reason(self, observers: Sequence[Observer]) -> str | None:
        """The lowest rank's reason to end; None where no worker has one."""
        return next((reason for reason in self.world.gather_objects(_end_reason(observers)) if reason), None)

    def _check_step(self, state: TrainingState, sums: np.ndarray, norm: float, checkpoints: CheckpointWriter) -> None:
        # Under loss scaling a step that overflows is skipped, not an error.
        if not (math.isfinite(sums[LOSS]) and math.isfinite(norm)) and not self.optimizer.scaled:
            raise TrainingError(self._not_finite(state, sums, norm, checkpoints))
        limit = self.config.data.max_corrupt_fraction * len(self._train.source)
        if state.corrupt_samples > limit:
            raise TrainingError(
                f"data.max_corrupt_fraction: expected at most {self.config.data.max_corrupt_fraction:.1%} unreadable "
                f"samples, received {int(state.corrupt_samples)} of {len(self._train.source)} already. "
                "`python -m tfpipe.data validate` lists them."
            )

    def _not_finite(self, state: TrainingState, sums: np.ndarray, norm: float, checkpoints: CheckpointWriter) -> str:
        training, source = self.config.training, self._train.source
        order = step_order(
            len(source), batch_size=training.batch_size, seed=training.seed, epoch=state.epoch,
            lengths=self._train.lengths,
        )  # fmt: skip
        batch = order[(state.step_in_epoch - 1) * training.batch_size : state.step_in_epoch * training.batch_size]
        samples = [
            f"{', '.join(map(source.identifier, share[:_NAMED_SAMPLES]))}{', ...' * (len(share) > _NAMED_SAMPLES)}"
            for rank in range(self.world.size)
            if len(share := rank_share(batch, rank=rank, world_size=self.world.size).tolist())
        ]
        good = checkpoints.newest_finite()
        what = (
            f"a finite loss, received {sums[LOSS]}"
            if not math.isfinite(sums[LOSS])
            else f"finite gradients, norm {norm}"
        )
        return (
            f"step {state.step}: expected {what}. Lower training.learning_rate ({state.learning_rate:g} here), set "
            f"training.gradient_clip_norm, or lengthen training.warmup_epochs. Samples of the step, by worker: "
            f"{'; '.join(samples)}. Last good checkpoint: {good or 'none'}."
        )

    def _epoch_metrics(self, state: TrainingState, checkpoints: CheckpointWriter) -> dict[str, float]:
        metrics = self.parts.task.metrics(np.array(state.epoch_totals))
        if self._validation is None:
            return metrics
        with averaged(self.optimizer):
            evaluation = self.evaluate(self._validation)
        if evaluation is None:
            self._save_and_stop(state, checkpoints)
            raise AssertionError  # _save_and_stop raises
        return metrics | {f"val_{name}": value for name, value in evaluation.metrics.items()}

    def _note_best(self, state: TrainingState, metrics: dict[str, float]) -> bool:
        if not self.pruning.is_complete(state.step):
            # Denser weights score better, and are not what was asked for.
            return False
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

    def average_moving_statistics(self) -> None:
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


def _end_reason(observers: Sequence[Observer]) -> str | None:
    return next((reason for observer in observers if (reason := observer.end_reason())), None)


def _timed(batches: Iterable[Batch]) -> Iterator[tuple[Batch, float]]:
    """Each batch with the seconds that it was waited for."""
    started = time.perf_counter()
    for batch in batches:
        yield batch, time.perf_counter() - started
        started = time.perf_counter()


def _epoch_line(metrics: dict[str, float], headline: str) -> str:
    shown = {name: metrics[name] for name in (*_SHOWN, headline) if name in metrics}
    line, rate = summary_line(shown), metrics["samples_per_second"]
    return line if math.isnan(rate) else f"{line}  {rate:.0f} samples/s"
