import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfpipe.core.words import split_words


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
