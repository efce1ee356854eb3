import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_recall_fscore_support

from tfpipe.core.classification import (
    accuracy,
    class_scores,
    confusion_counts,
    macro_score,
    micro_score,
)

NUM_CLASSES = 4
answers = st.lists(st.tuples(*[st.integers(0, NUM_CLASSES - 1)] * 2), min_size=1, max_size=40)
label_sets = st.lists(st.booleans(), min_size=NUM_CLASSES, max_size=NUM_CLASSES)
rows_of_labels = st.lists(st.tuples(label_sets, label_sets), min_size=1, max_size=20)


def label_counts(true, predicted):
    return np.stack([(true & predicted).sum(0), predicted.sum(0), true.sum(0)], axis=1)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(answers)
def test_scores_from_a_confusion_matrix_are_those_of_scikit_learn(pairs):
    true, predicted = np.array(pairs).T
    confusion = confusion_matrix(true, predicted, labels=range(NUM_CLASSES))

    counts = confusion_counts(confusion)

    assert accuracy(confusion) == pytest.approx(accuracy_score(true, predicted), abs=1e-12)
    expected = precision_recall_fscore_support(true, predicted, labels=range(NUM_CLASSES), zero_division=0)
    np.testing.assert_allclose(np.array(class_scores(counts)).T, expected, atol=1e-12)
    assert macro_score(counts).f1 == pytest.approx(f1_score(true, predicted, average="macro"), abs=1e-12)
    assert micro_score(counts).f1 == pytest.approx(f1_score(true, predicted, average="micro"), abs=1e-12)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(rows_of_labels)
def test_scores_from_counts_of_labels_are_those_of_scikit_learn(rows):
    true, predicted = (np.array([row[side] for row in rows]) for side in (0, 1))
    occurring = np.flatnonzero((true | predicted).any(axis=0))

    counts = label_counts(true, predicted)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for average, score in (("micro", micro_score(counts)), ("macro", macro_score(counts))):
            if len(occurring):
                expected = precision_recall_fscore_support(
                    true, predicted, labels=occurring, average=average, zero_division=0
                )[:3]
            else:
                expected = (0, 0, 0)
            np.testing.assert_allclose(score[:3], expected, atol=1e-12)


@given(rows_of_labels, st.integers(0, 20))
def test_the_score_of_summed_counts_does_not_depend_on_who_counted(rows, cut):
    true, predicted = (np.array([row[side] for row in rows]).reshape(-1, NUM_CLASSES) for side in (0, 1))

    parts = label_counts(true[:cut], predicted[:cut]) + label_counts(true[cut:], predicted[cut:])

    assert macro_score(parts) == macro_score(label_counts(true, predicted))


def test_nothing_counted_scores_nothing():
    nothing = np.zeros((3, 3))

    assert np.isnan(accuracy(nothing))
    assert macro_score(nothing) == micro_score(nothing) == (0.0, 0.0, 0.0, 0)
