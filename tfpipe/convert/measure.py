"""Accuracy and batch invariance of ONNX model graphs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from tqdm import tqdm

from tfpipe.convert.conversion import Conversion, Examples
from tfpipe.convert.gate import Recall
from tfpipe.convert.trained import TrainedModel
from tfpipe.core.certificate import Score
from tfpipe.core.classification import TRUE, TRUE_POSITIVES
from tfpipe.core.confidence import bootstrap, wilson
from tfpipe.core.errors import DataError
from tfpipe.core.parity import BOUNDS, max_abs_diff
from tfpipe.core.signature import Array
from tfpipe.data.sources import Source
from tfpipe.data.splits import open_splits, open_validation_alone
from tfpipe.latency import BATCH_SIZES, MOST_RUNS, Feed, Trial, try_out
from tfpipe.ort import OnnxModel
from tfpipe.ort_providers import Way
from tfpipe.tasks.task import Task
from tfpipe.training.artifacts import known_as
from tfpipe.training.limits import limited, limited_validation

# One, so that figures of machines with other core counts compare.
LATENCY_THREADS = 1
# A slow model is run less often than asked rather than for many minutes: of one that takes 0.1 s, 50 runs of one row
# and 5 of eight.
_MOST_S, _TIMEOUT_S = 10.0, 300.0
# With the default of 50 as many as `tfpipe.latency` makes at most.
_SEARCHED_OVER_REPORTED = 20


@dataclass(frozen=True)
class Timing:
    """How a variant is timed.

    Attributes:
        threads: Inside an operator; None: one per core.
        max_s: Seconds that latency is measured for.
        most_runs: Of a batch size.
        timeout_s: Longer takes no variant to be loaded and timed.
    """

    threads: int | None = None
    max_s: float = 2.0
    most_runs: int = MOST_RUNS
    timeout_s: float = 120.0


def search_timing(runs: int) -> Timing:
    """How a search orders its trials: by all cores, and by more runs than are reported.

    Args:
        runs: Of a batch size, where they are reported.
    """
    return Timing(most_runs=_SEARCHED_OVER_REPORTED * runs)


def reported_timing(runs: int) -> Timing:
    """How the figures of a bundle's variants are measured.

    Args:
        runs: Of a batch size.
    """
    return Timing(LATENCY_THREADS, _MOST_S, runs, _TIMEOUT_S)


class Answers(Protocol):
    """Rows to probabilities: an ONNX model, Keras, a SavedModel."""

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """See `tfpipe.ort.OnnxModel.run`."""
        ...


@dataclass(frozen=True)
class Scores:
    """What model graphs answered on the validation data.

    Attributes:
        task: What the answers are.
        tallies: The task's tally by variant.
        predictions: (units,) int by variant: classes, labels that are or are not, tags of words.
        intervals: 95 % confidence interval of the headline by variant.
        num_samples: Samples answered.
        num_corrupt: Samples that could not be read.
    """

    task: Task
    tallies: Mapping[str, Array]
    predictions: Mapping[str, Array]
    intervals: Mapping[str, tuple[float, float]]
    num_samples: int
    num_corrupt: int

    def metrics(self, variant: str) -> dict[str, float]:
        """The task's scores by name."""
        return self.task.scores(self.tallies[variant])

    def headline(self, variant: str) -> float:
        """The score that the gate judges, 0..1."""
        return self.metrics(variant)[self.task.headline]

    def score(self, variant: str) -> Score:
        """The headline with its confidence interval, for the certificate."""
        return Score(self.task.headline, self.headline(variant), *self.intervals[variant], self.num_samples)

    def recalls(self, variant: str) -> dict[str, Recall]:
        """How many of each class were found, classes without a sample left out."""
        names, counts = self.task.class_counts(self.tallies[variant])
        return {
            name: Recall(float(found), float(there))
            for name, (found, _, there) in zip(names, np.asarray(counts, np.float64).tolist(), strict=True)
            if there
        }

    def agreement(self, variant: str, reference: str = "fp32") -> float:
        """Share of answers that are the reference's, 0..1."""
        return float(np.mean(self.predictions[variant] == self.predictions[reference]))

    def under(self, name: str, variant: str) -> "Scores":
        """Those of one variant alone.

        Args:
            name: What it is called from here on.
            variant: What it is called here.
        """
        return replace(
            self,
            tallies={name: self.tallies[variant]},
            predictions={name: self.predictions[variant]},
            intervals={name: self.intervals[variant]},
        )

    def joined(self, other: "Scores") -> "Scores":
        """These and what further variants answered on the same data."""
        return replace(
            self,
            tallies={**self.tallies, **other.tallies},
            predictions={**self.predictions, **other.predictions},
            intervals={**self.intervals, **other.intervals},
        )


def open_validation(trained: TrainedModel) -> Source | None:
    """The samples that training measured its validation metrics on.

    Returns:
        They; None where neither the run nor the configuration has any.

    Raises:
        DataError: They are not there, or not the same any more.
    """
    if trained.foreign is not None:
        return trained.foreign.validation
    data = trained.config.data
    place = data.validation_path or data.path
    try:
        source = _held_out(trained)
    except DataError as error:
        raise DataError(
            f"validation data at {place!r}, which the gate measures accuracy on, cannot be opened: {error} "
            "Give their new place: data.path=... or data.validation_path=..."
        ) from error
    if source is None and not trained.validation:
        return None
    found = {known_as(source, i) for i in range(len(source))} if source is not None else set()
    expected = set(trained.validation)
    labels = source.labels if source is not None else ()
    if tuple(labels) != trained.parts.labels or (expected and found != expected):
        raise DataError(
            f"validation data at {place!r}: expected the {len(expected)} samples that training was validated on, found "
            f"{len(found & expected)} of them and {len(found - expected)} others: the data have changed since."
        )
    return source


def _held_out(trained: TrainedModel) -> Source | None:
    config = trained.config
    if config.data.validation_path is None or config.training.overfit_batches is not None:
        return limited(open_splits(config), config).validation
    # By themselves: the training data may be gone.
    source = open_validation_alone(config, trained.parts.labels, multi_label=trained.multi_label)
    return None if source is None else limited_validation(source, config)


def score(models: Mapping[str, Answers], examples: Examples, task: Task, *, max_corrupt_fraction: float) -> Scores:
    """Answer every example with every model.

    Args:
        models: Whatever answers rows, by variant.
        examples: Labelled samples; unreadable ones are counted.
        task: What labels are.
        max_corrupt_fraction: Share of unreadable samples that is borne.

    Raises:
        DataError: Nothing can be read, or too much cannot.
    """
    tallies = {name: _Tally(task) for name in models}
    predictions: dict[str, list[Array]] = {name: [] for name in models}
    num_samples = 0
    with tqdm(total=len(examples), desc="accuracy", unit=" samples", leave=False, disable=None) as progress:
        for rows, labels, num_tried in examples.batches():
            progress.update(num_tried)
            if not len(rows):
                continue
            num_samples += len(rows)
            everywhere = np.ones(len(rows), np.float32)
            for name, model in models.items():
                probabilities = model.run({"input": rows})["probabilities"]
                answered = np.asarray(task.predictions(labels, probabilities))
                tallies[name].add(labels, answered)
                there = np.asarray(task.compared(labels, probabilities, everywhere).weights) > 0
                predictions[name].append(answered[there])
    num_corrupt = len(examples) - num_samples
    if not num_samples or num_corrupt > max_corrupt_fraction * len(examples):
        raise DataError(
            f"validation data: {num_corrupt} of {len(examples)} samples cannot be read, more than "
            f"data.max_corrupt_fraction={max_corrupt_fraction:g} allows; the first: {examples.first_error}"
        )
    flat = {name: np.concatenate(answers) for name, answers in predictions.items()}
    sums = {name: tally.total for name, tally in tallies.items()}
    intervals = {name: tally.interval() for name, tally in tallies.items()}
    return Scores(task, sums, flat, intervals, num_samples, num_corrupt)


class _Tally:
    """Sums a task's tally, and keeps what the confidence interval of its headline needs."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self.total = np.zeros(task.tally_shape(), np.float64)
        self._of_samples: list[Array] = []

    def add(self, labels: Array, predictions: Array) -> None:
        if self._is_share:
            self.total += self._task.tally(labels, predictions, np.ones(len(labels), np.float32))
            return
        one = np.ones(1, np.float32)
        for i in range(len(labels)):
            self._of_samples.append(self._task.tally(labels[i : i + 1], predictions[i : i + 1], one))
            self.total += self._of_samples[-1]

    def interval(self) -> tuple[float, float]:
        if self._is_share:
            _, counts = self._task.class_counts(self.total)
            return wilson(float(counts[:, TRUE_POSITIVES].sum()), float(counts[:, TRUE].sum()))
        return bootstrap(np.stack(self._of_samples), lambda tally: self._task.scores(tally)[self._task.headline])

    @property
    def _is_share(self) -> bool:
        """Whether the headline is a share of samples, whose interval is known without drawing them anew."""
        return self._task.headline == "accuracy"


def timed_batches(conversion: Conversion, rows: Sequence[Array]) -> dict[int, Feed]:
    """What a model is timed with, by batch size; rows are repeated where there are few."""
    return {
        size: {"input": conversion.batch([rows[position % len(rows)] for position in range(size)])}
        for size in BATCH_SIZES
    }


def time_apart(
    file: Path,
    way: Way,
    batches: Mapping[int, Feed],
    timing: Timing,
    *,
    answered: Sequence[Feed] = (),
    disabled_optimizers: Sequence[str] = (),
) -> Trial:
    """Run and time a file in a process of its own; see `tfpipe.latency.try_out`."""
    return try_out(
        file,
        way,
        answered=answered,
        batches=batches,
        threads=timing.threads,
        disabled_optimizers=disabled_optimizers,
        max_s=timing.max_s,
        most_runs=timing.most_runs,
        timeout_s=timing.timeout_s,
    )


def neighbours_difference(model: OnnxModel, conversion: Conversion, rows: Sequence[Array]) -> float:
    """By how much the answers to rows in a batch differ at most from those that they get alone; probabilities."""
    together = conversion.cut(model.run({"input": conversion.batch(rows)})["probabilities"], rows)
    alone = [conversion.cut(model.run({"input": conversion.batch([row])})["probabilities"], [row])[0] for row in rows]
    return max(max_abs_diff(one, other) for one, other in zip(together, alone, strict=True))


def is_batch_invariant(difference: float) -> bool:
    """Whether a `neighbours_difference` is float32 rounding."""
    return difference <= BOUNDS["fp32"].atol
