"""SentencePiece by its library against keras-nlp's layer inside TensorFlow."""

import pytest
from hypothesis import given, settings

from tests.text.texts import any_text, many_texts
from tfpipe.core.errors import ConfigError, DecodeError
from tfpipe.text.golden import AWKWARD_TEXTS, golden_ids
from tfpipe.text.keras_side import keras_ids
from tfpipe.text.sentence_pieces import SPECIAL_TOKENS, SentencePieceOptions, SentencePieceTokenizer

pytestmark = pytest.mark.tensorflow


@given(texts=many_texts())
@settings(max_examples=60)
def test_ids_are_those_of_the_keras_layer_for_any_text(sentence_pieces, texts):
    assert golden_ids(sentence_pieces, texts) == keras_ids(sentence_pieces, texts)


def test_ids_are_those_of_the_keras_layer_for_awkward_texts(sentence_pieces):
    assert golden_ids(sentence_pieces, AWKWARD_TEXTS) == keras_ids(sentence_pieces, AWKWARD_TEXTS)


@given(text=any_text())
def test_places_are_in_the_text_and_in_order(sentence_pieces, text):
    encoding = sentence_pieces.encode(text)

    assert len(encoding.ids) == len(encoding.starts) == len(encoding.ends)
    assert all(0 <= start <= end <= len(text) for start, end in zip(encoding.starts, encoding.ends, strict=True))
    assert encoding.ends == sorted(encoding.ends)


def test_places_are_those_in_the_callers_own_string(sentence_pieces):
    text = "  the  dog e\u0301 😀 sea"

    encoding = sentence_pieces.encode(text)
    covered = [text[start:end] for start, end in zip(encoding.starts, encoding.ends, strict=True)]

    assert "".join(place for place in covered if not place.isspace()) == "thedoge\u0301😀sea"
    assert {"e\u0301", "😀"} <= set(covered)
    # White space around a token is not its place; only what stands for white space alone has it.
    assert all(place == place.strip() or place.isspace() for place in covered)


def test_the_pieces_of_one_character_share_its_place(sentence_pieces):
    encoding = sentence_pieces.encode("\ufb03")
    places = set(zip(encoding.starts, encoding.ends, strict=True))

    assert len(encoding.ids) > 1
    assert places <= {(0, 0), (0, 1)}
    assert list(zip(encoding.starts, encoding.ends, strict=True))[-2:] == [(0, 1), (0, 1)]


def test_special_tokens_written_out_are_text(sentence_pieces):
    ids = sentence_pieces.encode("[CLS] <pad> [SEP] [MASK]").ids

    assert not {sentence_pieces.start_id, sentence_pieces.end_id, sentence_pieces.pad_id} & set(ids)


def test_a_lone_surrogate_is_refused(sentence_pieces):
    with pytest.raises(DecodeError, match=r"lone surrogate U\+DC00 at character 3"):
        sentence_pieces.encode("abc\udc00")


@pytest.mark.parametrize("proto", [b"", b"no model", b"\n\x05\n\x01a"])
def test_what_is_no_model_is_refused(proto):
    with pytest.raises(ConfigError, match="vocabulary: expected a"):
        SentencePieceTokenizer(proto, SentencePieceOptions(), SPECIAL_TOKENS)
