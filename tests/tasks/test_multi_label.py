"""Any number of labels a sample, against plain NumPy and scikit-learn."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from tests.tasks.splitting import summed_over_pieces
from tfpipe.data.text import TextRow, TextSource
from tfpipe.tasks.multi_label import MultiLabel

pytestmark = pytest.mark.tensorflow

LABELS = ("a", "b", "c")
TASK = MultiLabel(LABELS)


@st.composite
def answers(draw):
    """Labels, logits and weights of a batch; samples without a label and labels without a sample are among them."""
    size, occurring = draw(st.integers(1, 12)), draw(st.integers(1, 3))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = random.integers(0, 2, (size, 3)).astype(np.int32)
    labels[:, occurring:] = 0
    logits = random.normal(0, 3, (size, 3)).astype(np.float32)
    return labels, logits, random.integers(0, 2, size).astype(np.float32)


@given(batch=answers(), smoothing=st.sampled_from([0.0, 0.1, 0.4]))
def test_losses_are_the_binary_cross_entropy_with_targets_smoothed_to_one_half(batch, smoothing):
    labels, logits, weights = batch
    smooth = labels * (1 - smoothing) + smoothing / 2
    probabilities = 1 / (1 + np.exp(-logits.astype(np.float64)))

    compared = TASK.compared(labels, logits, weights)
    losses = TASK.losses(compared.targets, compared.logits, label_smoothing=smoothing)

    expected = -(smooth * np.log(probabilities) + (1 - smooth) * np.log1p(-probabilities))
    np.testing.assert_allclose(losses, expected, rtol=1e-4, atol=1e-5)


@given(batch=answers())
def test_counts_and_metrics_are_sums_and_means_over_what_has_weight(batch):
    labels, logits, weights = batch
    compared = TASK.compared(labels, logits, weights)
    losses = TASK.losses(compared.targets, compared.logits, label_smoothing=0.0).numpy()

    counts = TASK.counts(compared, losses, weights).numpy()
    metrics = TASK.metrics(counts)

    right = ((logits >= 0) == (labels == 1)).all(axis=-1)
    expected = [weights.sum(), 3 * weights.sum(), (losses * weights[:, None]).sum(), (right * weights).sum()]
    np.testing.assert_allclose(counts, expected, rtol=1e-5, atol=1e-6)
    if weights.any():
        kept = weights > 0
        # The loss is the mean over labels too, so that it does not grow with their number.
        assert metrics == pytest.approx({"loss": losses[kept].mean(), "accuracy": right[kept].mean()}, rel=1e-5)
    else:
        assert all(np.isnan(value) for value in metrics.values())


@given(batch=answers())
def test_scores_are_those_of_scikit_learn(batch):
    labels, logits, weights = batch
    predictions = TASK.predictions(labels, TASK.probabilities(logits)).numpy()

    scores = TASK.scores(TASK.tally(labels, predictions, weights))

    kept = weights > 0
    assert (predictions == (logits >= 0)).all()
    if kept.any():
        true, predicted = labels[kept], predictions[kept]
        # Labels that neither occur nor are predicted say nothing.
        there = (true + predicted).any(axis=0)
        macro = (
            f1_score(true[:, there], predicted[:, there], average="macro", zero_division=0)
            if there.sum() > 1
            else f1_score(true[:, there].ravel(), predicted[:, there].ravel(), zero_division=0)
        )
        assert scores == pytest.approx({
            "accuracy": accuracy_score(true, predicted),
            "micro_f1": f1_score(true, predicted, average="micro", zero_division=0),
            "macro_f1": macro,
        })  # fmt: skip


@given(batch=answers(), seed=st.integers(0, 99))
def test_tallies_add_up_over_any_split(batch, seed):
    labels, logits, weights = batch

    assert summed_over_pieces(TASK, labels, logits, weights, seed=seed)


def test_a_class_weight_is_that_of_the_label_whether_it_is_there_or_not():
    compared = TASK.compared(np.array([[1, 0, 0], [0, 0, 0]]), np.zeros((2, 3)), np.array([1, 0], np.float32))

    weights = TASK.class_weighted(compared, tf.constant([2.0, 3.0, 5.0]))

    assert weights.numpy().tolist() == [[2.0, 3.0, 5.0], [0.0, 0.0, 0.0]]


def test_occurrences_are_counted_by_label():
    rows = [TextRow(str(number), "text", labels) for number, labels in enumerate([("a", "c"), (), ("c",)])]
    source = TextSource(rows, LABELS, kind="multi", max_chars=10, where="test")

    assert TASK.occurrences(source).tolist() == [1, 0, 2]
