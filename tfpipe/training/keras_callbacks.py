"""`training.callbacks`: a user's own Keras callbacks.

They act on the chief; one whose class says `every_worker = True` acts on every worker. What they ask for, an end or
another learning rate, all workers do together, and weights that the chief's change are given to all.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import keras

from tfpipe.core.errors import ConfigError, TfpipeError, TrainingError
from tfpipe.distributed import World
from tfpipe.models.assembly import Parts
from tfpipe.models.zoo import import_function, make
from tfpipe.training.checkpoints import TrainingState
from tfpipe.training.observers import Observer, StepRecord
from tfpipe.training.optimizer import DataParallelOptimizer
from tfpipe.training_settings import TrainingConfig

# Scoring has no batches of Keras's here: a callback that waits for them would wait in silence.
_NEVER_CALLED = tuple(
    f"on_{kind}_{part}" for kind in ("test", "predict") for part in ("begin", "end", "batch_begin", "batch_end")
)


def build_callbacks(config: TrainingConfig) -> list[keras.callbacks.Callback]:
    """The callbacks that a configuration names, one of each a worker.

    Raises:
        ConfigError: One cannot be imported, is no callback, or waits for what is never called.
    """
    return [_callback(name) for name in config.callbacks]


class KerasCallbacks(Observer):
    """Tells Keras callbacks of a run.

    `on_epoch_end` comes after validation and before the checkpoint, which then holds what it decided: numbers and texts
    among a callback's attributes, such as how long EarlyStopping has waited, are saved and restored.

    Args:
        callbacks: As `build_callbacks` gives them.
        config: Of the run.
        parts: `model` is theirs, with `optimizer` and `stop_training` as Keras has them.
        optimizer: Of the run.
        world: The workers.
        state: Of the run; the learning rate's factor and the callbacks' attributes are kept in it.
        steps_per_epoch: Of every epoch.
    """

    def __init__(
        self,
        callbacks: Sequence[keras.callbacks.Callback],
        config: TrainingConfig,
        parts: Parts,
        optimizer: DataParallelOptimizer,
        world: World,
        state: TrainingState,
        steps_per_epoch: int,
    ) -> None:
        self._callbacks, self._world, self._state = callbacks, world, state
        self._model, self._optimizer, self._steps = parts.model, optimizer, steps_per_epoch
        self._acting = [c for c in callbacks if world.is_chief or getattr(c, "every_worker", False)]
        self._params = {"epochs": config.epochs, "steps": steps_per_epoch, "verbose": 0}
        self._last: dict[str, float] = {}

    def on_train_begin(self) -> None:
        self._model.optimizer, self._model.stop_training = self._optimizer, False
        for callback in self._callbacks:
            callback.set_params(self._params)
            callback.set_model(self._model)
        self._together("on_train_begin", {})
        for callback, kept in zip(self._callbacks, self._state.callbacks, strict=False):
            vars(callback).update(kept)

    def on_epoch_begin(self, epoch: int) -> None:
        self._together("on_epoch_begin", epoch, {})

    def on_step_begin(self, step: int) -> None:
        self._call("on_train_batch_begin", step % self._steps, {})

    def on_step(self, record: StepRecord) -> None:
        logs = {"loss": record.loss, "gradient_norm": record.gradient_norm, "learning_rate": record.learning_rate}
        before = float(self._optimizer.learning_rate)
        self._call("on_train_batch_end", (record.step - 1) % self._steps, logs)
        if float(self._optimizer.learning_rate) != before:
            raise TrainingError(
                "training.callbacks: a callback set the learning rate in mid-epoch, where training.schedule sets it. "
                "Set it in on_epoch_begin or on_epoch_end."
            )

    def end_reason(self) -> str | None:
        return "a callback set model.stop_training" if getattr(self._model, "stop_training", False) else None

    def before_checkpoint(self, epoch: int, metrics: dict[str, float], state: TrainingState) -> None:
        self._last = metrics
        self._together("on_epoch_end", epoch, metrics)
        state.callbacks = [_plain_attributes(callback) for callback in self._callbacks]

    def on_train_end(self) -> None:
        self._world.together(lambda: self._call("on_train_end", self._last))
        del self._model.optimizer

    def _call(self, hook: str, *arguments: Any) -> None:
        *position, logs = arguments
        for callback in self._acting:
            try:
                getattr(callback, hook)(*position, dict(logs))
            except TfpipeError:
                raise
            # Whatever the user's code may raise.
            except Exception as error:
                name = type(callback).__name__
                raise TrainingError(
                    f"training.callbacks: {name}.{hook} failed: {type(error).__name__}: {error}"
                ) from error

    def _together(self, hook: str, *arguments: Any) -> None:
        """Let the callbacks act between steps, then give all workers the chief's learning rate and weights."""
        before = float(self._optimizer.learning_rate)
        self._world.together(lambda: self._call(hook, *arguments))
        after = self._world.broadcast_object(float(self._optimizer.learning_rate))
        if after != before and before > 0:
            # The schedule assigns the rate each step: what a callback sets is a factor on all that is left of it.
            self._state.learning_rate_factor *= after / before
            self._optimizer.learning_rate.assign(after)
        # Not the state of dropout, which is each worker's own.
        self._world.broadcast_variables(self._model.trainable_variables)


def _plain_attributes(callback: keras.callbacks.Callback) -> dict[str, Any]:
    # What its constructor was given is configuration; EarlyStopping changes the sign of its min_delta on the way.
    constructors = [vars(kind)["__init__"] for kind in type(callback).__mro__ if "__init__" in vars(kind)]
    given = {name for constructor in constructors for name in inspect.signature(constructor).parameters}
    return {
        name: value
        for name, value in vars(callback).items()
        if name not in given and not name.startswith("_") and isinstance(value, bool | int | float | str | None)
    }


def _callback(name: str) -> keras.callbacks.Callback:
    key = "training.callbacks"
    callback = make(import_function(name, key=key), keras.callbacks.Callback, name=name, key=key)
    plain = keras.callbacks.Callback
    waiting = [hook for hook in _NEVER_CALLED if getattr(type(callback), hook) is not getattr(plain, hook)]
    if waiting:
        raise ConfigError(
            f"training.callbacks: {name!r} overrides {', '.join(waiting)}, which tfpipe does not call. "
            "The metrics of validation are in the logs of on_epoch_end."
        )
    return callback
