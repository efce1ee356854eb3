"""The end of a run: the trained-model folder, the report, and the version in the registry."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tfpipe import tracking
from tfpipe.core.errors import StoppedError
from tfpipe.data.splits import Splits
from tfpipe.distributed import World
from tfpipe.models.assembly import Parts
from tfpipe.provenance import git_commit, library_versions
from tfpipe.registry import ModelVersion, Registry, register_if_good
from tfpipe.settings import Config
from tfpipe.tasks.task import Task
from tfpipe.training import artifacts, report
from tfpipe.training.checkpoints import TrainingState
from tfpipe.training.evaluation import Evaluation
from tfpipe.training.pruning import pruning_card


def final_metrics(state: TrainingState, task: Task, evaluations: dict[str, Evaluation | None]) -> dict[str, float]:
    """The best epoch's training metrics, and what the saved weights score."""
    epoch = state.best_epoch if state.best_epoch is not None else len(state.history) - 1
    best = state.history[epoch]
    metrics = {name: best[name] for name in task.metric_names} | {"epoch": float(epoch)}
    for prefix, evaluation in evaluations.items():
        if evaluation is None:
            raise StoppedError("stopped during the last evaluation; give --resume to finish.")
        metrics |= {f"{prefix}_{name}": value for name, value in evaluation.metrics.items()}
    return metrics


def finish(
    config: Config,
    folder: Path,
    parts: Parts,
    splits: Splits,
    state: TrainingState,
    metrics: dict[str, float],
    evaluations: dict[str, Evaluation | None],
    tracker: tracking.Tracker,
    world: World,
) -> ModelVersion | None:
    """On the chief: write the trained-model folder and the report, log them, register."""
    card = {
        "task": config.task,
        "labels": list(parts.labels),
        "multi_label": parts.probabilities.multi_label,
        "model_name": config.tracking.registered_model,
        "run_id": state.run_id,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "metrics": metrics,
        "data_fingerprint": splits.fingerprint,
        "git_commit": git_commit(),
        "library_versions": library_versions(),
        "samples": {"train": len(splits.train), "validation": len(splits.validation or ())},
    }
    if config.training.pruning.sparsity:
        card["pruning"] = pruning_card(config.training, parts.network, state.history)
    artifacts.save_model(parts, folder / "model.keras")
    artifacts.save_model_card(folder / "model.json", card)
    artifacts.save_validation_index(folder / "validation.json", splits)
    artifacts.save_calibration(
        folder / "calibration", splits.train, seed=config.training.seed, max_pixels=config.data.max_image_pixels
    )
    summary = card | {"workers": world.size, "ended": state.ended, "wall_time_s": state.wall_time_s}
    _report(config, folder, parts.task, state, evaluations, tracker, summary)
    tracker.log_metrics({f"final_{name}": value for name, value in metrics.items()}, step=state.epoch)
    if isinstance(tracker, tracking.NoTracker):
        return None
    version = register_if_good(
        Registry(config.tracking.uri, retry_s=config.tracking.retry_s),
        config.tracking.registered_model,
        run_id=state.run_id or "",
        folder=folder,
        metrics=metrics,
        min_metrics=config.tracking.min_metrics,
        metadata=card,
    )
    tracker.finish("FINISHED")
    return version


def _report(
    config: Config,
    folder: Path,
    task: Task,
    state: TrainingState,
    evaluations: dict[str, Evaluation | None],
    tracker: tracking.Tracker,
    summary: dict[str, Any],
) -> None:
    evaluation = evaluations.get("test") or evaluations.get("val")
    tally = None if evaluation is None else evaluation.tally
    page = report.write_report(folder, config=config, history=state.history, task=task, tally=tally, summary=summary)
    tracker.log_file(page)
    tracker.log_figure(report.loss_figure(state.history), "curves.png")
    confusion = None if tally is None else task.confusion(tally)
    if confusion is not None:
        tracker.log_figure(report.confusion_figure(confusion, task.labels), "confusion.png")
