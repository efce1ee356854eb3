import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfpipe.core.words import first_tokens, split_words


def words(text):
    starts, ends = split_words(text)
    return [text[start:end] for start, end in zip(starts, ends, strict=True)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \t\n\u00a0", []),
        ("Don't stop.", ["Don", "'", "t", "stop", "."]),
        ("cafe\u0301 noir", ["cafe\u0301", "noir"]),
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),
        ("東京へ行く", ["東", "京", "へ", "行", "く"]),
        ("กำลัง", ["ก", "ำ", "ลั", "ง"]),
        ("서울에서 왔다", ["서울에서", "왔다"]),
        ("שלום, עולם", ["שלום", ",", "עולם"]),
        ("می\u200cروم", ["می\u200cروم"]),
        ("a\u0000b\u200b", ["a", "b"]),
        ("3.5 %", ["3", ".", "5", "%"]),
        ("x👍🏽y", ["x", "👍", "🏽", "y"]),
    ],
)
def test_words_are_runs_of_letters_and_single_other_characters(text, expected):
    assert words(text) == expected


@given(st.text())
def test_words_are_in_order_and_leave_out_only_what_cannot_be_seen(text):
    starts, ends = split_words(text)

    bounds = [position for pair in zip(starts, ends, strict=True) for position in pair]
    assert bounds == sorted(bounds)
    assert all(start < end for start, end in zip(starts, ends, strict=True))
    covered = {position for start, end in zip(starts, ends, strict=True) for position in range(start, end)}
    assert not any(
        text[position].isprintable() and text[position] != " " for position in set(range(len(text))) - covered
    )


def test_a_words_first_token_is_the_first_that_shares_a_character_with_it():
    # "unbelievable, yes": un|believ|able , yes, after a token of no character that some tokenizers begin with.
    word_starts, word_ends = [0, 12, 14], [12, 13, 17]
    token_starts, token_ends = [0, 0, 2, 8, 12, 14], [0, 2, 8, 12, 13, 17]

    assert first_tokens(word_starts, word_ends, token_starts, token_ends) == [1, 4, 5]


def test_words_that_share_a_token_both_have_it_and_a_word_without_one_has_none():
    assert first_tokens([0, 2, 5], [2, 4, 6], [0, 1], [1, 4]) == [0, 1, None]


@given(
    text=st.text(st.sampled_from("aé\u0301 ,京\u200d😀"), max_size=12),
    places=st.lists(st.tuples(st.integers(0, 12), st.integers(0, 4)), max_size=12),
)
def test_first_tokens_are_those_of_a_search_through_all_of_them(text, places):
    starts, ends = split_words(text)
    tokens = [(start, start + length) for start, length in places]

    found = first_tokens(starts, ends, [start for start, _ in tokens], [end for _, end in tokens])

    for word, token in zip(zip(starts, ends, strict=True), found, strict=True):
        covered = [i for i, place in enumerate(tokens) if set(range(*place)) & set(range(*word))]
        assert token == (covered[0] if covered else None)
