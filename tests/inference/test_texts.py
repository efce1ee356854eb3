"""Texts before the model and after it; what the model says is made up here."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tfpipe.core.errors import ConfigError, DecodeError, InputTooLargeError
from tfpipe.inference.interface import in_runs
from tfpipe.inference.texts import TextInference
from tfpipe.text.encoding import Encoding, check_text

TAGS = ("O", "B-LOC", "I-LOC", "B-PER", "I-PER")


class Characters:
    """A tokenizer that makes every visible character a token, whose id is its place among them."""

    kind, vocabulary_size, pad_id, start_id, end_id, unknown_id = "characters", 1000, 0, 1, 2, 3

    def encode(self, text: str) -> Encoding:
        check_text(text)
        places = [place for place, character in enumerate(text) if not character.isspace()]
        return Encoding([4 + index for index in range(len(places))], places, [place + 1 for place in places])

    def save(self, folder: Path) -> None:
        raise NotImplementedError


def inference_of(task: str = "token_classification", **options) -> TextInference:
    defaults = {"labels": TAGS, "max_length": 12}
    return TextInference(Characters(), task=task, **{**defaults, **options})


def certain(tag: str) -> np.ndarray:
    return np.eye(len(TAGS), dtype=np.float32)[TAGS.index(tag)]


def test_a_row_is_cut_to_the_models_length_for_classification():
    inference = inference_of("text_classification", labels=("a", "b"))

    (row,) = inference.prepare("x" * 50).rows

    assert row.dtype == np.int32
    assert row.tolist() == [1, *range(4, 14), 2]


def test_an_empty_text_is_a_row_of_special_tokens():
    assert [row.tolist() for row in inference_of().prepare("").rows] == [[1, 2]]


def test_rows_are_padded_to_the_bucket_of_the_longest_and_no_further():
    inference = inference_of(max_length=100)
    rows = [inference.prepare("x" * length).rows[0] for length in (3, 20, 15)]

    assert inference.lengths == (16, 32, 48, 64, 96, 100)
    assert inference.batch(rows).shape == (3, 32)
    assert inference.batch(rows[:1]).tolist() == [[1, 4, 5, 6, 2, *[0] * 11]]


@given(lengths=st.lists(st.integers(0, 98), max_size=40), size=st.integers(1, 9))
def test_every_row_is_run_once_beside_rows_of_like_length(lengths, size):
    inference = inference_of(max_length=100)
    rows = [inference.prepare("x" * length).rows[0] for length in lengths]

    runs = in_runs(inference, rows, size)

    assert sorted(position for run in runs for position in run) == list(range(len(rows)))
    assert all(len(run) == size for run in runs[:-1])
    assert len(runs) == -(-len(rows) // size)
    padded = [inference.padded_length(rows[position]) for run in runs for position in run]
    assert padded == sorted(padded)


def test_padding_is_cut_off_the_probabilities_of_tokens():
    inference = inference_of()
    rows = [inference.prepare(text).rows[0] for text in ("abc", "", "abcdefgh")]

    cut = inference.cut(np.zeros((3, 12, len(TAGS)), np.float32), rows)

    assert [each.shape for each in cut] == [(5, 5), (2, 5), (10, 5)]


@given(length=st.integers(0, 80), max_length=st.integers(3, 20))
@example(length=21, max_length=9)
def test_each_token_of_a_long_text_is_answered_where_it_stands_farthest_from_an_edge(length, max_length):
    inference = inference_of(max_length=max_length)
    # Words of one token each, parted by spaces.
    prepared = inference.prepare(" ".join("x" * length))
    inside = [row[1:-1] - 4 for row in prepared.rows]
    probabilities = []
    for tokens in inside:
        # Each window says of each token how far it stands from the window's edges; the text's own ends are none.
        left = np.where(tokens[:1] > 0, tokens - tokens[:1], 999) if len(tokens) else tokens
        right = np.where(tokens[-1:] < length - 1, tokens[-1:] - tokens, 999) if len(tokens) else tokens
        said = np.zeros((len(tokens) + 2, len(TAGS)), np.float32)
        said[1:-1, TAGS.index("B-PER")] = np.minimum(left, right)
        said[:, TAGS.index("O")] = -1
        probabilities.append(said)

    entities = prepared.answer(probabilities)["entities"]

    farthest = [max(said[1 + np.flatnonzero(tokens == token), 3].max(initial=-1) for tokens, said in
                    zip(inside, probabilities, strict=True)) for token in range(length)]  # fmt: skip
    assert [(entity["start"], entity["score"]) for entity in entities] == [(2 * i, far) for i, far in
                                                                          enumerate(farthest)]  # fmt: skip


def test_no_entity_of_a_long_text_is_lost():
    inference = inference_of(max_length=8)
    text = "京" * 40 + "X" + "都" * 30
    prepared = inference.prepare(text)

    def say(row):
        return np.stack([certain("B-LOC" if token == 4 + 40 else "O") for token in row])

    entities = prepared.answer([say(row) for row in prepared.rows])["entities"]

    assert len(prepared.rows) > 10
    assert entities == [{"text": "X", "label": "LOC", "start": 40, "end": 41, "score": 1.0}]


@pytest.mark.parametrize(
    ("text", "entity"),
    [
        ("😀👍🏽 Ana", "Ana"),
        ("\U00020000\U0001d400x Ana", "Ana"),
        ("e\u0301 Cafe\u0301 z", "Cafe\u0301"),
        ("\u200f\u202bשלום\u202c עולם", "עולם"),
        ("a\u200bb \ufeffAna", "Ana"),
        ("ab\u200ccd Ana", "ab\u200ccd"),
        ("\r\n\tAna\x00b", "Ana"),
    ],
)
def test_places_are_code_points_of_the_callers_own_string(text, entity):
    inference = inference_of(max_length=64)
    prepared = inference.prepare(text)
    at = text.index(entity)
    encoding = Characters().encode(text)
    said = [certain("B-PER" if start == at else "O") for start in encoding.starts]

    (answered,) = prepared.answer([np.stack([certain("O"), *said, certain("O")])])["entities"]

    assert answered == {"text": entity, "label": "PER", "start": at, "end": at + len(entity), "score": 1.0}


def test_a_words_tag_is_that_of_its_first_sub_word():
    inference = inference_of()
    prepared = inference.prepare("Ana in Rio")
    said = ["B-PER", "O", "B-LOC", "O", "B-LOC", "B-LOC", "I-PER", "B-PER"]

    answer = prepared.answer([np.stack([certain(tag) for tag in ("I-LOC", *said, "I-LOC")])])

    assert [(entity["text"], entity["label"]) for entity in answer["entities"]] == [("Ana", "PER"), ("Rio", "LOC")]


def test_several_labels_are_answered_each_for_itself():
    inference = inference_of("text_classification", labels=("a", "b", "c"), multi_label=True)

    answer = inference.prepare("x").answer([np.array([0.75, 0.25, 0.5], np.float32)])

    assert [chosen["label"] for chosen in answer["labels"]] == ["a", "c"]


@pytest.mark.parametrize("text", ["", "größer", "\ufeffx", "😀", "a\x00b", "line\r\nline\n"])
def test_utf_8_is_read_to_the_last_character(text):
    assert inference_of().decode(text.encode()) == text == inference_of().decode(text)


@pytest.mark.parametrize(
    ("content", "error", "sentence"),
    [
        (b"ab\xff", DecodeError, "expected UTF-8 text, which this model takes; byte 2 is not"),
        (b"\xed\xa0\x80", DecodeError, "expected UTF-8 text, which this model takes; byte 0 is not"),
        (b"\x89PNG\r\n\x1a\n", DecodeError, "expected UTF-8 text, which this model takes; byte 0 is not"),
        ("é" * 11, InputTooLargeError, "expected at most 10 characters, received 11"),
        ("é".encode() * 11, InputTooLargeError, "expected at most 10 characters, received 11"),
    ],
)
def test_what_is_no_text_or_too_long_a_text_is_refused(content, error, sentence):
    with pytest.raises(error, match=sentence):
        inference_of(max_chars=10).decode(content)


def test_a_text_of_as_many_characters_as_allowed_is_read():
    assert inference_of(max_chars=10).decode("😀" * 10) == "😀" * 10


def test_half_of_a_surrogate_pair_is_refused():
    with pytest.raises(DecodeError, match=r"received a lone surrogate U\+D83D at character 1"):
        inference_of().prepare("a\ud83d")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"task": "translation"}, "task: expected one of text_classification, token_classification, received"),
        ({"max_length": 2}, "max_length: expected more than 2, received 2"),
        ({"labels": ("O", "PER")}, "labels: tag: expected O, or B-, I-, E- or S- and a type, received 'PER'"),
    ],
)
def test_a_task_that_makes_no_sense_is_refused(options, sentence):
    with pytest.raises(ConfigError, match=sentence):
        inference_of(**options)
