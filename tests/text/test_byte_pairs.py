"""Byte-level BPE: nothing of a text is lost, and special tokens are out of a text's reach."""

import pytest
from hypothesis import given
from tokenizers import decoders, pre_tokenizers

from tests.text.texts import any_text
from tfpipe.core.errors import ConfigError, DecodeError
from tfpipe.text.byte_pairs import SPECIAL_TOKENS, BytePairOptions, BytePairTokenizer


@given(text=any_text())
def test_the_tokens_are_the_whole_text(byte_pairs, text):
    tokens = {index: token for token, index in byte_pairs.vocabulary.items()}

    decoded = decoders.ByteLevel().decode([tokens[index] for index in byte_pairs.encode(text).ids])

    assert decoded == text


@given(text=any_text())
def test_places_are_in_the_text_and_none_is_empty(byte_pairs, text):
    encoding = byte_pairs.encode(text)

    assert len(encoding.ids) == len(encoding.starts) == len(encoding.ends)
    assert all(0 <= start < end <= len(text) for start, end in zip(encoding.starts, encoding.ends, strict=True))
    assert encoding.starts == sorted(encoding.starts)


@given(text=any_text())
def test_places_cover_all_but_white_space(byte_pairs, text):
    encoding = byte_pairs.encode(text)
    covered = {place for pair in zip(encoding.starts, encoding.ends, strict=True) for place in range(*pair)}

    assert {place for place, character in enumerate(text) if not character.isspace()} <= covered


def test_the_bytes_of_one_character_share_its_place(byte_pairs):
    encoding = byte_pairs.encode("a 🏴")

    assert len(encoding.ids) > 2
    assert set(zip(encoding.starts[1:], encoding.ends[1:], strict=True)) <= {(1, 2), (2, 3)}


def test_case_that_changes_lengths_keeps_places():
    trained = lowercasing()

    encoding = trained.encode("İ x")

    assert (encoding.starts[0], encoding.ends[-1]) == (0, 3)
    assert trained.encode("ABC x").ids == trained.encode("abc X").ids


@given(text=any_text())
def test_special_tokens_written_out_are_text(byte_pairs, text):
    special = {byte_pairs.pad_id, byte_pairs.start_id, byte_pairs.end_id, byte_pairs.unknown_id}

    assert special.isdisjoint(byte_pairs.encode(f"<s>{text}</s> <pad> <unk><mask>").ids)


def test_a_lone_surrogate_is_refused(byte_pairs):
    with pytest.raises(DecodeError, match=r"lone surrogate U\+D800 at character 0"):
        byte_pairs.encode("\ud800")


def lowercasing():
    return BytePairTokenizer(vocabulary(), ["a b"], BytePairOptions(lowercase=True), SPECIAL_TOKENS)


def vocabulary():
    tokens = [*vars(SPECIAL_TOKENS).values(), *sorted(pre_tokenizers.ByteLevel.alphabet()), "ab"]
    return {token: index for index, token in enumerate(tokens)}


@pytest.mark.parametrize(
    ("changed", "merges", "message"),
    [
        ({"ab": 300}, [], "vocabulary: expected the ids 0 to 260, each once"),
        ({"ab": None, "z": None, "zz": 258, "zzz": 259}, [], "a token for each of 256 bytes; 1 lack, among them 'z'"),
        ({"<s>": None, "x<s>": 1}, [], "expected the start token '<s>' among its 261 tokens"),
        ({}, ["a  b"], "merges: expected two tokens with a space between, received 'a  b'"),
        ({}, ["a c"], "merges: expected only tokens of the vocabulary"),
    ],
)
def test_a_vocabulary_that_cannot_be_used_is_refused(changed, merges, message):
    tokens = {token: index for token, index in {**vocabulary(), **changed}.items() if index is not None}
    if "ab" not in changed:
        order = sorted(tokens, key=tokens.__getitem__)
        tokens = {token: index for index, token in enumerate(order)}
    elif changed["ab"] is None:
        tokens = {token: index for index, token in enumerate(tokens)}

    with pytest.raises(ConfigError, match=message):
        BytePairTokenizer(tokens, merges, BytePairOptions(), SPECIAL_TOKENS)
