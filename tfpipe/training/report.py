"""The page that a person reads after training: scores, curves, confusion, classes, configuration; one file."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from numpy.typing import NDArray

from tfpipe.config import flatten
from tfpipe.core import atomic
from tfpipe.figure_style import svg_uri
from tfpipe.settings import Config
from tfpipe.tasks.task import Task
from tfpipe.tracking import value_text
from tfpipe.training.figures import confusion_figure as confusion_figure
from tfpipe.training.figures import loss_figure as loss_figure
from tfpipe.training.figures import rates_figure, shares_figure
from tfpipe.training.summary import mean_worker_shares, summary_rows

REPORT_FILE = "report.html"

# Rows that are open on the page; the others fold away.
_MAX_ROWS = 20
_MAX_PAIRS = 10
_SHARES = ("accuracy", "precision", "recall", "f1", "micro_f1", "macro_f1")
# Of `summary`: has a place of its own on the page.
_PLACED = ("labels", "metrics", "library_versions", "model_name", "task")


@dataclass(frozen=True)
class ClassScore:
    """How one class was recognised; NaN where nothing is of it, or nothing was predicted as it."""

    label: str
    samples: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class ConfusedPair:
    """Samples of one class that were taken for another; `share` is of all samples of the class."""

    label: str
    predicted: str
    samples: int
    share: float


def write_report(
    output_dir: Path,
    *,
    config: Config,
    history: Sequence[Mapping[str, float]],
    task: Task,
    tally: NDArray[Any] | None,
    summary: Mapping[str, Any],
) -> Path:
    """Write `output_dir`/report.html, atomically.

    Args:
        output_dir: Folder of the run.
        config: The resolved configuration.
        history: Metrics by name, one entry an epoch: loss, val_loss, accuracy, val_accuracy, learning_rate,
            gradient_norm, samples_per_second and those of `tfpipe.training.telemetry`; any may be absent or NaN.
        task: What labels are.
        tally: Of the answers; None where nothing was evaluated.
        summary: What `model.json` says, and anything else worth a line. `summary["metrics"]["epoch"]`, counted from 0,
            is the epoch whose weights were kept.

    Returns:
        The file.
    """
    metrics = dict(summary.get("metrics", {}))
    best_epoch = metrics.pop("epoch", None)
    labels = task.labels
    confusion = None if tally is None else task.confusion(tally)
    scores = [] if tally is None else class_scores(*task.class_counts(tally))
    shares = mean_worker_shares(history)
    page = _page().render(
        summary=summary,
        metrics=metrics,
        best_epoch=None if best_epoch is None else int(best_epoch) + 1,
        num_epochs=len(history),
        num_classes=len(labels),
        noun="tags" if config.task == "token_classification" else "classes",
        curves=svg_uri(loss_figure(history)) if history else None,
        rates=svg_uri(rates_figure(history)) if history else None,
        shares=svg_uri(shares_figure(shares)) if shares else None,
        course=_course(history, summary),
        confusion=svg_uri(confusion_figure(confusion, labels)) if confusion is not None else None,
        pairs=confused_pairs(confusion, labels)[:_MAX_PAIRS] if confusion is not None else [],
        scores=sorted(scores, key=lambda score: (math.isnan(score.f1), score.f1)),
        max_rows=_MAX_ROWS,
        facts=_facts(summary),
        config=_sections(config),
    )
    path = output_dir / REPORT_FILE
    atomic.write_file(path, page)
    return path


def class_scores(names: Sequence[str], counts: NDArray[Any]) -> list[ClassScore]:
    """Precision, recall and F1 of every class (label, entity type).

    Source: van Rijsbergen, Information Retrieval, 1979, chapter 7.

    Args:
        names: Of the classes.
        counts: (classes, 3): true positives, predicted, true.
    """
    hits, predicted, actual = counts.T
    with np.errstate(invalid="ignore", divide="ignore"):
        precision, recall, f1 = hits / predicted, hits / actual, 2 * hits / (actual + predicted)
    return [
        ClassScore(name, round(float(actual[i])), float(precision[i]), float(recall[i]), float(f1[i]))
        for i, name in enumerate(names)
    ]


def confused_pairs(confusion: NDArray[Any], labels: Sequence[str]) -> list[ConfusedPair]:
    """Which classes were taken for which, most samples first; classes that were never confused are left out."""
    wrong = confusion - np.diag(np.diag(confusion))
    actual = confusion.sum(axis=1)
    order = np.argsort(-wrong, axis=None, kind="stable")[: np.count_nonzero(wrong)]
    places = [divmod(int(place), len(labels)) for place in order]
    return [
        ConfusedPair(
            labels[row], labels[column], round(float(wrong[row, column])), float(wrong[row, column] / actual[row])
        )
        for row, column in places
    ]


def _course(history: Sequence[Mapping[str, float]], summary: Mapping[str, Any]) -> dict[str, str]:
    if "wall_time_s" not in summary or not history:
        return {}
    return summary_rows(history, workers=summary.get("workers", 1), wall_time_s=summary["wall_time_s"])


def _facts(summary: Mapping[str, Any]) -> dict[str, str]:
    """The rest of the summary, one line each; nested values by their full name, seconds with their unit."""
    facts: dict[str, str] = {}
    for key, value in summary.items():
        if key in _PLACED or value is None:
            continue
        nested = value if isinstance(value, Mapping) else {"": value}
        for name, inner in nested.items():
            words = " ".join((key.removesuffix("_s"), name)).replace("_", " ").strip()
            facts[words] = _fact(inner) + (" s" if key.endswith("_s") else "")
    return facts


def _fact(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _sections(config: Config) -> dict[str, dict[str, str]]:
    """Values of the configuration as text, by section."""
    sections: dict[str, dict[str, str]] = {}
    for key, value in flatten(config).items():
        section, _, name = key.rpartition(".")
        sections.setdefault(section or "run", {})[name] = value_text(value)
    return sections


def _score(value: float, name: str = "accuracy") -> str:
    """A metric as text; a share of samples in percent."""
    if math.isnan(value):
        return "–"
    is_share = name.removeprefix("val_").removeprefix("test_") in _SHARES
    return f"{100 * value:.2f} %" if is_share else f"{value:.4g}"


def _page() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["score"] = _score
    return environment.get_template("report_page.html")
