"""Precision, recall and F1 from counts, which add up over steps and workers where means would not.

Counts are (C, 3), one row a class (or label, or entity type): true positives, predicted, true.

Shape legend: C classes.
Source: van Rijsbergen, Information Retrieval, 1979, chapter 7; an undefined ratio is 0, as in scikit-learn and seqeval.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

TRUE_POSITIVES, PREDICTED, TRUE = range(3)


class Score(NamedTuple):
    """How well one class was found, or all of them.

    Attributes:
        precision: Share of what was predicted that is true, 0..1.
        recall: Share of what is true that was predicted, 0..1.
        f1: Harmonic mean of the two.
        support: How many are true.
    """

    precision: float
    recall: float
    f1: float
    support: int


def confusion_counts(confusion: NDArray[np.generic]) -> NDArray[np.float64]:
    """The counts of each class.

    Args:
        confusion: (C, C) counts: true class by row, predicted by column.

    Returns:
        (C, 3) float64.
    """
    matrix = np.asarray(confusion, np.float64)
    return np.stack([np.diag(matrix), matrix.sum(axis=0), matrix.sum(axis=1)], axis=1)


def class_scores(counts: NDArray[np.generic]) -> list[Score]:
    """The score of each class.

    Args:
        counts: (C, 3) of any dtype.
    """
    return [_score(row) for row in np.asarray(counts, np.float64)]


def micro_score(counts: NDArray[np.generic]) -> Score:
    """The score over all classes together: every prediction counts alike.

    Args:
        counts: (C, 3) of any dtype.
    """
    return _score(np.asarray(counts, np.float64).reshape(-1, 3).sum(axis=0))


def macro_score(counts: NDArray[np.generic]) -> Score:
    """The mean of the classes' scores: every class counts alike.

    Over the classes that occur, in truth or prediction: nothing is known about the others. So do seqeval, and
    scikit-learn where it is not told which classes there are.

    Args:
        counts: (C, 3) of any dtype.
    """
    rows = np.asarray(counts, np.float64).reshape(-1, 3)
    scores = class_scores(rows[rows[:, PREDICTED] + rows[:, TRUE] > 0])
    if not scores:
        return Score(0.0, 0.0, 0.0, 0)
    precision, recall, f1, _ = np.mean(scores, axis=0).tolist()
    return Score(precision, recall, f1, sum(score.support for score in scores))


def accuracy(confusion: NDArray[np.generic]) -> float:
    """Share of correct answers; NaN where nothing was counted.

    Args:
        confusion: (C, C) counts: true class by row, predicted by column.
    """
    matrix = np.asarray(confusion, np.float64)
    total = float(matrix.sum())
    return float(np.trace(matrix)) / total if total > 0 else float("nan")


def _score(row: NDArray[np.float64]) -> Score:
    true_positives, predicted, true = row.tolist()
    return Score(
        _ratio(true_positives, predicted),
        _ratio(true_positives, true),
        _ratio(2 * true_positives, predicted + true),
        round(true),
    )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0
