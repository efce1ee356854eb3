"""What a training task is: how answers are compared with labels, and what is counted of them.

Shape legend: B batch, C classes (labels, tags), U units of comparison: an example, a label of it, or a word of it.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from tfpipe.core.classification import class_scores
from tfpipe.data.sources import Source

# Entries of `Task.counts`.
SAMPLES, UNITS, LOSS, RIGHT = range(4)
NUM_COUNTS = 4


class Compared(NamedTuple):
    """Answers beside what they should be.

    Attributes:
        targets: (B,) or (B, U), what is there.
        logits: As many, and (C,) each where one class of several is asked for.
        weights: (B,) or (B, U) float32, how much each unit counts; 0: not at all.
    """

    targets: Any
    logits: Any
    weights: Any


class Task(Protocol):
    """One kind of labels.

    Attributes:
        labels: Names in the order of the logits.
        label_shape: Of one sample's labels, None where it varies.
        metric_names: Of every epoch, from `counts`.
        score_names: Of validation and test data, from the tally, beside `metric_names`.
        headline: The score by which variants of a model are judged.
    """

    @property
    def labels(self) -> tuple[str, ...]: ...

    @property
    def label_shape(self) -> tuple[int | None, ...]: ...

    @property
    def metric_names(self) -> tuple[str, ...]: ...

    @property
    def score_names(self) -> tuple[str, ...]: ...

    @property
    def headline(self) -> str: ...

    def output_shape(self) -> tuple[int | None, ...]:
        """Of the network's logits."""
        ...

    def compared(self, labels: Any, logits: Any, weights_B: Any) -> Compared:
        """Answers beside labels, in TensorFlow; logits in float32."""
        ...

    def losses(self, targets: Any, logits: Any, *, label_smoothing: float) -> Any:
        """The loss of each unit, float32."""
        ...

    def class_weighted(self, compared: Compared, class_weights_C: Any) -> Any:
        """`compared.weights`, each times the weight of its class."""
        ...

    def counts(self, compared: Compared, losses: Any, weights_B: Any) -> Any:
        """What is summed over steps and workers: (4,) float32 samples, units, loss, right answers."""
        ...

    def metrics(self, totals: np.ndarray) -> dict[str, float]:
        """Metrics by name from summed `counts`; NaN where nothing was counted."""
        ...

    def predictions(self, labels: Any, probabilities: Any) -> Any:
        """What the model answers, int32, in TensorFlow; the shape is the targets'."""
        ...

    def probabilities(self, logits: Any) -> Any:
        """(..., C) float32, what the saved model gives."""
        ...

    def tally_shape(self) -> tuple[int, ...]:
        """Of a tally."""
        ...

    def tally(self, labels: np.ndarray, predictions: np.ndarray, weights_B: np.ndarray) -> np.ndarray:
        """What a batch adds to the scores, float64; it adds up over batches and workers."""
        ...

    def scores(self, tally: np.ndarray) -> dict[str, float]:
        """Scores by name from a summed tally."""
        ...

    def class_counts(self, tally: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
        """What is scored class by class: names, and (C, 3) true positives, predicted, true."""
        ...

    def confusion(self, tally: np.ndarray) -> np.ndarray | None:
        """(C, C) counts, true class by row; None where a sample has not just one."""
        ...

    def examples(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Labels and logits of invented examples, always the same, to try a function on."""
        ...

    def occurrences(self, source: Source) -> np.ndarray:
        """(C,) int64, how often each label occurs."""
        ...


def known_metrics(task: Task) -> list[str]:
    """Names that metrics of a run have: of training, validation and test."""
    names = [*task.metric_names, *task.score_names]
    return [*task.metric_names, *(f"{prefix}{name}" for prefix in ("val_", "test_") for name in names)]


def summary_line(values: Mapping[str, float]) -> str:
    """Metrics as a person reads them in the progress output."""
    return "  ".join(f"{name} {value:.4f}" for name, value in values.items())


def ratio(part: float, whole: float) -> float:
    """Part / whole; NaN where nothing was counted."""
    return part / whole if whole > 0 else float("nan")


def scores_by_class(task: Task, tally: np.ndarray) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and support of each class, for the files that a run leaves."""
    names, counts = task.class_counts(tally)
    return {name: score._asdict() for name, score in zip(names, class_scores(counts), strict=True)}
