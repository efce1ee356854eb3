"""Texts as rows of token ids, and the labels beside them."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.text.texts import CORPUS, any_text, many_texts, word_piece_vocabulary
from tfpipe.core.errors import ConversionError
from tfpipe.core.words import split_words
from tfpipe.data.pipeline import evaluation_batches, training_batches
from tfpipe.data.text import TaggedText, TextRow, TextSource, tag_names
from tfpipe.data.token_rows import TokenReader
from tfpipe.distributed import World
from tfpipe.tasks.find import find_task
from tfpipe.tasks.tagging import MISSING
from tfpipe.text.packing import bucket_length, buckets_up_to
from tfpipe.text.train_tokenizer import train_tokenizer
from tfpipe.text.unicode_probe import probe_unicode
from tfpipe.text.word_pieces import SPECIAL_TOKENS, WordPieceOptions, WordPieceTokenizer

pytestmark = pytest.mark.tensorflow

MAX_LENGTH = 20
KINDS = ("wordpiece", "sentencepiece", "bpe")


@pytest.fixture(scope="module")
def tokenizers():
    trained = {kind: train_tokenizer(CORPUS, kind=kind, vocabulary_size=400) for kind in KINDS[1:]}
    options = WordPieceOptions(lowercase=True)
    return trained | {
        "wordpiece": WordPieceTokenizer(word_piece_vocabulary(), options, SPECIAL_TOKENS, probe_unicode())
    }


def source_of(contents, kind="single", labels=("a", "b"), names=None, max_chars=100_000):
    given_labels = names or [() if kind == "tags" else (labels[0],)] * len(contents)
    rows = [TextRow(f"file:{i}", content, given_labels[i]) for i, content in enumerate(contents)]
    return TextSource(rows, labels, kind=kind, max_chars=max_chars, where="test")


def reader_of(source, tokenizer, *, max_length=MAX_LENGTH, world=World()):  # noqa: B008  # frozen
    name = "token_classification" if source.kind == "tags" else "text_classification"
    task = find_task(name, source.labels, multi_label=source.multi_label)
    return TokenReader(source, tokenizer, task, max_length=max_length, world=world)


def tagged(text):
    """A text whose words have tags that tell them apart from their neighbours."""
    starts, ends = split_words(text)
    return TaggedText(text, tuple(starts), tuple(ends), tuple(("O", "B-X")[i % 2] for i in range(len(starts))))


TAGS = tag_names(["B-X"])


@settings(max_examples=25)
@given(kind=st.sampled_from(KINDS), texts=many_texts())
def test_rows_are_the_packed_ids_of_the_service_padded_to_a_bucket(tokenizers, kind, texts):
    tokenizer = tokenizers[kind]
    reader = reader_of(source_of(texts), tokenizer)

    rows, readable = reader.read(np.arange(len(texts)))

    ids = [tokenizer.encode(text).ids[: MAX_LENGTH - 2] for text in texts]
    expected = [[tokenizer.start_id, *of_text, tokenizer.end_id] for of_text in ids]
    assert readable.all()
    assert rows.dtype == np.int32
    assert rows.shape == (len(texts), bucket_length(max(map(len, expected)), buckets_up_to(MAX_LENGTH)))
    assert reader.lengths.tolist() == [len(row) for row in expected]
    for row, wanted in zip(rows.tolist(), expected, strict=True):
        assert row == wanted + [tokenizer.pad_id] * (len(row) - len(wanted))


def test_a_batch_is_as_long_as_its_longest_row_needs(tokenizers):
    reader = reader_of(source_of(["fox", "the fox " * 7, "fox " * 100]), tokenizers["wordpiece"])

    assert [reader.read(np.array([index]))[0].shape[1] for index in range(3)] == [16, 16, MAX_LENGTH]
    assert reader.read(np.array([0, 2, 0]))[0].shape == (3, MAX_LENGTH)


def test_labels_of_single_texts_are_class_numbers(tokenizers):
    source = source_of(["x", "y", "z"], labels=("a", "b", "c"), names=[("c",), ("a",), ("b",)])
    reader = reader_of(source, tokenizers["bpe"])

    labels = reader.labels(np.array([1, 0, 0]))

    assert (labels.tolist(), labels.dtype) == ([0, 2, 2], np.int32)


def test_several_labels_are_one_where_a_text_has_them(tokenizers):
    source = source_of(["x", "y", "z"], "multi", labels=("a", "b", "c"), names=[("c", "a"), (), ("b",)])
    reader = reader_of(source, tokenizers["bpe"])

    labels = reader.labels(np.array([2, 0, 1]))

    assert (labels.tolist(), labels.dtype) == ([[0, 1, 0], [1, 0, 1], [0, 0, 0]], np.int32)


@settings(max_examples=50)
@given(kind=st.sampled_from(KINDS), texts=st.lists(any_text(), min_size=1, max_size=8))
def test_a_words_tag_stands_with_its_first_token_in_the_row(tokenizers, kind, texts):
    tokenizer, contents = tokenizers[kind], [tagged(text) for text in texts]
    labels = reader_of(source_of(contents, "tags", TAGS), tokenizer).labels(np.arange(len(texts)))

    assert labels.shape == (len(texts), max(1, *(len(content.tags) for content in contents)), 2)
    for row, content in zip(labels.tolist(), contents, strict=True):
        encoding = tokenizer.encode(content.text)
        expected = []
        for start, end, tag in zip(content.starts, content.ends, content.tags, strict=True):
            places = enumerate(zip(encoding.starts, encoding.ends, strict=True))
            sharing = [token for token, (first, last) in places if max(first, start) < min(last, end)]
            in_row = sharing and sharing[0] < MAX_LENGTH - 2
            # One further: a row opens with the start token.
            expected.append([TAGS.index(tag), sharing[0] + 1 if in_row else MISSING])
        assert row == expected + [[MISSING, MISSING]] * (len(row) - len(expected))


def test_a_word_that_was_cut_off_has_no_position_but_its_tag(tokenizers):
    tokenizer, text = tokenizers["wordpiece"], "the fox " * 20
    reader = reader_of(source_of([tagged(text)], "tags", TAGS), tokenizer)

    rows, _ = reader.read(np.array([0]))
    (words,) = reader.labels(np.array([0]))

    per_word = len(tokenizer.encode("the fox").ids) / 2
    assert words[:, 0].tolist() == [0, 1] * 20
    kept = words[words[:, 1] != MISSING]
    assert len(kept) == (MAX_LENGTH - 2) / per_word
    # The closing token is no word's.
    assert rows[0, -1] == tokenizer.end_id
    assert kept[:, 1].max() < MAX_LENGTH - 1


CORRUPT = ["the fox", "x" * 31, "a lone \ud83d surrogate", "", "sea shells"]


@pytest.mark.parametrize("kind", ["single", "multi", "tags"])
def test_texts_that_are_too_long_or_no_unicode_are_left_out_and_counted(tokenizers, caplog, kind):
    contents = [tagged(text) for text in CORRUPT] if kind == "tags" else CORRUPT
    labels = TAGS if kind == "tags" else ("a", "b")
    reader = reader_of(source_of(contents, kind, labels, max_chars=30), tokenizers["wordpiece"])

    batches = list(evaluation_batches(reader, batch_size=2, world=World()))

    assert sorted(reader.corrupt) == [1, 2]
    assert "file:1: expected at most 30 characters (data.max_text_chars), received 31" in reader.corrupt[1]
    assert "received a lone surrogate U+D83D at character 7" in reader.corrupt[2]
    assert "skipped corrupt sample file:2" in caplog.text
    assert sum(float(batch.num_corrupt) for batch in batches) == 2
    assert sum(float(batch.weights.numpy().sum()) for batch in batches) == 3
    for batch in batches:
        assert len(batch.rows) == len(batch.labels) == len(batch.weights)


def test_a_step_without_a_readable_text_still_has_a_row(tokenizers):
    reader = reader_of(source_of(["x" * 31] * 3, max_chars=30), tokenizers["sentencepiece"])

    batches = list(training_batches(reader, batch_size=3, seed=0, epoch=0, world=World()))

    assert [(len(b.rows), b.weights.numpy().tolist(), float(b.num_corrupt)) for b in batches] == [(1, [0.0], 3.0)]


def test_corrupt_texts_beyond_a_few_are_counted_not_listed(tokenizers, caplog):
    reader = reader_of(source_of(["x" * 31] * 9, max_chars=30), tokenizers["bpe"])

    assert len(reader.corrupt) == 9
    assert caplog.text.count("skipped corrupt sample") == 5
    assert "further corrupt samples are counted, not listed" in caplog.text


def other_unicode(tokenizer):
    """The same tokenizer as a TensorFlow that does not know that Ü is an upper-case ü would make it."""
    table = tokenizer.table
    other = replace(table, casefold={upper: lower for upper, lower in table.casefold.items() if upper != "Ü"})
    return WordPieceTokenizer(tokenizer.vocabulary, tokenizer.options, tokenizer.special_tokens, other)


def test_a_tokenizer_that_gives_other_ids_than_the_keras_layer_stops_the_run(tokenizers):
    right = tokenizers["wordpiece"]
    contents = ["the quick fox", "quer über", "quer ÜBER"]
    reader_of(source_of(contents), right)

    with pytest.raises(
        ConversionError, match=r"file:2: expected the Keras layer's ids \[.+\], received \[.+\] from the service's"
    ):
        reader_of(source_of(contents), other_unicode(right))
    # Behind the cut no difference matters.
    reader_of(source_of(["the " * 30 + "Über"]), other_unicode(right))


@pytest.mark.parametrize(("rank", "fails"), [(0, False), (1, True)])
def test_each_worker_proves_its_share_of_the_texts(tokenizers, rank, fails):
    wrong = other_unicode(tokenizers["wordpiece"])
    source, world = source_of(["über", "Über"]), World(rank=rank, size=2)

    if fails:
        with pytest.raises(ConversionError, match="file:1"):
            reader_of(source, wrong, world=world)
    else:
        reader_of(source, wrong, world=world)


def test_batches_go_from_short_to_long_in_evaluation_and_are_of_like_length_in_training(tokenizers):
    texts = ["fox " * count for count in np.random.default_rng(0).integers(0, 40, 64)]
    reader = reader_of(source_of(texts), tokenizers["wordpiece"], max_length=50)

    evaluated = [batch.rows.shape[1] for batch in evaluation_batches(reader, batch_size=8, world=World())]
    trained = [batch.rows.shape[1] for batch in training_batches(reader, batch_size=4, seed=0, epoch=0, world=World())]

    assert evaluated == sorted(evaluated)
    assert len(set(evaluated)) > 2
    # Of 16 batches of any four of them most would be of the longest bucket.
    assert sum(trained) < 0.85 * 16 * bucket_length(int(reader.lengths.max()), buckets_up_to(50))
