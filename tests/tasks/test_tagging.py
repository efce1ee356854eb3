"""A tag a word, against plain NumPy and seqeval."""

import warnings

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import assume, given
from hypothesis import strategies as st
from seqeval.metrics import accuracy_score, f1_score, precision_score, recall_score

from tests.tasks.splitting import summed_over_pieces
from tfpipe.data.text import TextRow, TextSource, join_words, tag_names
from tfpipe.distributed import World
from tfpipe.tasks.tagging import MISSING, POSITION, TAG, Tagging
from tfpipe.training import user_metrics
from tfpipe.training_settings import TrainingConfig

pytestmark = pytest.mark.tensorflow

TOKENS = 9


@st.composite
def answers(draw):
    """(task, labels, logits, weights): texts of 0 to 8 words, some of which have no token in the row."""
    tags = tag_names(draw(st.sampled_from([["B-X"], ["B-X", "I-Y"], ["S-X", "B-Y"]])))
    size, words = draw(st.integers(1, 6)), draw(st.integers(1, 8))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    labels = np.full((size, words, 2), MISSING, np.int32)
    for row in labels:
        count = random.integers(0, words + 1)
        row[:count, TAG] = random.integers(0, len(tags), count)
        positions = np.sort(random.permutation(np.arange(1, TOKENS))[:count])
        row[:count, POSITION] = np.where(random.random(count) < 0.3, MISSING, positions)
    # Often right, or there would be no entity to be found.
    logits = random.normal(0, 1, (size, TOKENS, len(tags))).astype(np.float32)
    for sample, row in enumerate(labels):
        for tag, position in row[row[:, POSITION] != MISSING]:
            logits[sample, position, tag] += random.choice([0.0, 5.0])
    return Tagging(tags), labels, logits, random.integers(0, 2, size).astype(np.float32)


def words_of(task, labels, logits, weights):
    """(true, predicted) tags of the words of each text that has weight; a word without a token is `O`."""
    true, predicted = [], []
    for row, scores in zip(labels[weights > 0], logits[weights > 0], strict=True):
        there = row[row[:, TAG] != MISSING]
        true.append([task.labels[tag] for tag, _ in there])
        predicted.append(["O" if at == MISSING else task.labels[scores[at].argmax()] for _, at in there])
    return true, predicted


def units(labels, logits, weights):
    """(losses, right) of every word that takes part, in a row."""
    losses, right = [], []
    for row, scores, weight in zip(labels, logits.astype(np.float64), weights, strict=True):
        for tag, position in row:
            if weight and MISSING not in (tag, position):
                word = scores[position]
                losses.append(np.log(np.exp(word - word.max()).sum()) + word.max() - word[tag])
                right.append(word.argmax() == tag)
    return losses, right


@given(batch=answers(), smoothing=st.sampled_from([0.0, 0.3]))
def test_counts_and_metrics_are_over_words_that_have_a_token(batch, smoothing):
    task, labels, logits, weights = batch
    compared = task.compared(labels, logits, weights)
    losses = task.losses(compared.targets, compared.logits, label_smoothing=smoothing)

    counts = task.counts(compared, losses, weights).numpy()
    metrics = task.metrics(counts)

    plain, right = units(labels, logits, weights)
    # Smoothing: with probability s the target is any of the tags.
    if not smoothing:
        np.testing.assert_allclose(counts[2], sum(plain), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(counts[[0, 1, 3]], [weights.sum(), len(plain), sum(right)])
    if plain:
        assert metrics["accuracy"] == pytest.approx(np.mean(right))
        assert metrics["loss"] == pytest.approx(counts[2] / len(plain))
    else:
        assert all(np.isnan(value) for value in metrics.values())


@given(batch=answers())
def test_scores_are_those_of_seqeval(batch):
    task, labels, logits, weights = batch
    predictions = task.predictions(labels, task.probabilities(logits)).numpy()

    scores = task.scores(task.tally(labels, predictions, weights))

    true, predicted = words_of(task, labels, logits, weights)
    assume(any(true))
    with warnings.catch_warnings():
        # Where there is no entity, scores are 0, of which it warns; but its mean over no type is NaN.
        warnings.simplefilter("ignore")
        expected = {
            "accuracy": accuracy_score(true, predicted),
            "precision": precision_score(true, predicted),
            "recall": recall_score(true, predicted),
            "f1": f1_score(true, predicted),
            "macro_f1": np.nan_to_num(f1_score(true, predicted, average="macro")),
        }
    assert scores == pytest.approx(expected)


@given(batch=answers(), seed=st.integers(0, 99))
def test_tallies_add_up_over_any_split(batch, seed):
    task, labels, logits, weights = batch

    assert summed_over_pieces(task, labels, logits, weights, seed=seed)


def test_what_is_cut_off_was_not_found_and_takes_no_part_in_the_loss():
    task = Tagging(("O", "B-X", "I-X"))
    # Two words of one entity; the second was cut off.
    labels = np.array([[[1, 1], [2, MISSING]]], np.int32)
    logits = np.zeros((1, 3, 3), np.float32)
    logits[0, :, 1] = 9.0
    weights = np.ones(1, np.float32)

    compared = task.compared(labels, logits, weights)
    predictions = task.predictions(labels, task.probabilities(logits)).numpy()
    scores = task.scores(task.tally(labels, predictions, weights))

    assert compared.weights.numpy().tolist() == [[1.0, 0.0]]
    assert predictions.tolist() == [[1, 0]]
    assert scores == {"accuracy": 0.5, "precision": 0.0, "recall": 0.0, "f1": 0.0, "macro_f1": 0.0}


def test_a_class_weight_is_that_of_the_words_tag():
    task = Tagging(("O", "B-X", "I-X"))
    labels = np.array([[[2, 1], [0, 2], [1, MISSING], [MISSING, MISSING]]], np.int32)
    compared = task.compared(labels, np.zeros((1, 4, 3), np.float32), np.ones(1, np.float32))

    weights = task.class_weighted(compared, tf.constant([2.0, 3.0, 5.0]))

    assert weights.numpy().tolist() == [[5.0, 2.0, 0.0, 0.0]]


def test_occurrences_are_words_of_each_tag():
    tagged = join_words(["Ana", "Berg", "in", "Oslo"], ["B-PER", "I-PER", "O", "B-LOC"])
    source = TextSource([TextRow("1", tagged)], tag_names(tagged.tags), kind="tags", max_chars=100, where="test")

    assert dict(zip(source.labels, Tagging(source.labels).occurrences(source).tolist(), strict=True)) == {
        "O": 1, "B-LOC": 1, "I-LOC": 0, "B-PER": 1, "I-PER": 1,
    }  # fmt: skip


def test_a_metric_of_keras_counts_the_words_that_have_a_token():
    task = Tagging(("O", "B-X", "I-X"))
    config = TrainingConfig(metrics=["keras.metrics:SparseCategoricalAccuracy"])
    metrics = user_metrics.build_metrics(config, task)
    user_metrics.check_metrics(metrics, task)
    labels = np.array([[[2, 1], [0, 2], [1, MISSING]], [[1, 1], [MISSING, MISSING], [MISSING, MISSING]]], np.int32)
    logits = np.zeros((2, 4, 3), np.float32)
    logits[:, 1, 2] = 3.0
    logits[:, 2, 1] = 3.0

    user_metrics.update(metrics, task, task.compared(labels, logits, np.ones(2, np.float32)))

    # Right: the first of three words.
    assert user_metrics.results(metrics, World()) == pytest.approx({"sparse_categorical_accuracy": 1 / 3})
