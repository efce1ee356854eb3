"""What may watch a run: figures, tracking, a user's own callbacks."""

from dataclasses import dataclass

from tfpipe.training.checkpoints import TrainingState


@dataclass(frozen=True)
class StepRecord:
    """One optimizer update, as a worker saw it.

    Attributes:
        step: Updates of the run so far, this one included.
        loss: Mean over the samples of the step, of all workers.
        samples: Samples of the step, of all workers.
        gradient_norm: Global norm of the averaged gradients before clipping; not finite where they overflowed.
        learning_rate: Of this update.
        input_s: Seconds that this worker waited for its part of the batch.
        step_s: Seconds that it then computed and communicated.
        after_gradients_s: Of these, seconds after its own gradients were computed: the update, communication that
            computing did not hide, and the wait for slower workers. 0 where a worker is alone.
    """

    step: int
    loss: float
    samples: float
    gradient_norm: float
    learning_rate: float
    input_s: float
    step_s: float
    after_gradients_s: float = 0.0


class Observer:
    """Is told of a run on every worker, and overrides what it wants to know. What it raises ends the run.

    A method that communicates must do so on every worker alike.
    """

    def on_train_begin(self) -> None:
        """Before the first step of this sitting."""

    def on_epoch_begin(self, epoch: int) -> None:
        """Before the first step of an epoch, or of the rest of one that is resumed."""

    def end_reason(self) -> str | None:
        """Before each step and at the end of each epoch: why the run shall end here, as after its last epoch.

        One worker's reason is enough: all end after the same step, with validation and a checkpoint.
        """
        return None

    def on_step_begin(self, step: int) -> None:
        """Before an update; `step` updates of the run are done."""

    def on_step(self, record: StepRecord) -> None:
        """After an update."""

    def figures(self) -> dict[str, float]:
        """After the last step of an epoch: what this observer adds to the epoch's metrics."""
        return {}

    def before_checkpoint(self, epoch: int, metrics: dict[str, float], state: TrainingState) -> None:
        """After validation: what this changes, of `state` too, is saved with the epoch."""

    def on_epoch_end(self, epoch: int, metrics: dict[str, float]) -> None:
        """After validation and the checkpoint."""

    def on_train_end(self) -> None:
        """After the last epoch; not where the run was stopped or failed."""
