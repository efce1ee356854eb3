"""One class of several, against plain NumPy and scikit-learn."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from tests.tasks.splitting import summed_over_pieces
from tfpipe.data.text import TextRow, TextSource
from tfpipe.tasks.find import find_task
from tfpipe.tasks.single_label import SingleLabel

pytestmark = pytest.mark.tensorflow

LABELS = ("a", "b", "c", "d")
TASK = SingleLabel(LABELS)


@st.composite
def answers(draw):
    """Labels, logits and weights of a batch, not all classes of which need occur."""
    size, classes = draw(st.integers(1, 12)), draw(st.integers(1, 4))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = random.integers(0, classes, size).astype(np.int32)
    logits = random.normal(0, 3, (size, len(LABELS))).astype(np.float32)
    return labels, logits, random.integers(0, 2, size).astype(np.float32)


def log_softmax(logits):
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


@given(batch=answers(), smoothing=st.sampled_from([0.0, 0.1, 0.4]))
def test_losses_are_the_cross_entropy_with_smoothed_targets(batch, smoothing):
    labels, logits, weights = batch
    targets = np.eye(4)[labels] * (1 - smoothing) + smoothing / 4

    compared = TASK.compared(labels, tf.cast(logits, tf.float32), weights)
    losses = TASK.losses(compared.targets, compared.logits, label_smoothing=smoothing)

    np.testing.assert_allclose(losses, -(targets * log_softmax(logits)).sum(axis=-1), rtol=1e-5, atol=1e-5)


@given(batch=answers())
def test_counts_and_metrics_are_sums_and_means_over_what_has_weight(batch):
    labels, logits, weights = batch
    compared = TASK.compared(labels, logits, weights)
    losses = TASK.losses(compared.targets, compared.logits, label_smoothing=0.0).numpy()

    counts = TASK.counts(compared, losses, weights).numpy()
    metrics = TASK.metrics(counts)

    right = logits.argmax(axis=-1) == labels
    expected = [weights.sum(), weights.sum(), (losses * weights).sum(), (right * weights).sum()]
    np.testing.assert_allclose(counts, expected, rtol=1e-5)
    if weights.any():
        kept = weights > 0
        assert metrics == pytest.approx({"loss": losses[kept].mean(), "accuracy": right[kept].mean()}, rel=1e-5)
    else:
        assert all(np.isnan(value) for value in metrics.values())


@given(batch=answers())
def test_scores_are_those_of_scikit_learn(batch):
    labels, logits, weights = batch
    predictions = TASK.predictions(labels, TASK.probabilities(logits)).numpy()

    scores = TASK.scores(TASK.tally(labels, predictions, weights))

    kept = weights > 0
    assert predictions.tolist() == logits.argmax(axis=-1).tolist()
    if kept.any():
        true, predicted = labels[kept], predictions[kept]
        assert scores == pytest.approx({
            "accuracy": accuracy_score(true, predicted), "macro_f1": f1_score(true, predicted, average="macro"),
        })  # fmt: skip


@given(batch=answers(), seed=st.integers(0, 99))
def test_tallies_add_up_over_any_split(batch, seed):
    labels, logits, weights = batch

    assert summed_over_pieces(TASK, labels, logits, weights, seed=seed)


def test_a_class_weight_is_that_of_the_right_class():
    compared = TASK.compared(np.array([3, 0, 1]), np.zeros((3, 4)), np.array([1, 1, 0], np.float32))

    weights = TASK.class_weighted(compared, tf.constant([2.0, 3.0, 5.0, 7.0]))

    assert weights.numpy().tolist() == [7.0, 2.0, 0.0]


def test_occurrences_are_counted_by_class():
    rows = [TextRow(str(number), "text", (label,)) for number, label in enumerate("acca")]
    source = TextSource(rows, LABELS, kind="single", max_chars=10, where="test")

    assert TASK.occurrences(source).tolist() == [2, 0, 2, 0]


@pytest.mark.parametrize(
    ("name", "multi_label", "kind"),
    [
        ("image_classification", False, "SingleLabel"),
        ("text_classification", False, "SingleLabel"),
        ("text_classification", True, "MultiLabel"),
        ("token_classification", False, "Tagging"),
    ],
)
def test_the_task_is_found_by_name_and_labels(name, multi_label, kind):
    task = find_task(name, ("O", "B-X"), multi_label=multi_label)

    assert (type(task).__name__, task.labels) == (kind, ("O", "B-X"))
