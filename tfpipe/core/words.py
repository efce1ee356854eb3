"""Where the words of a text are: what tags are given to."""

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence

# Scripts written without spaces between words: each character, with its marks, is a word of its own.
# Source: Unicode 15 Blocks.txt; Hangul is left out, since Korean has spaces.
_UNSPACED = re.compile(
    "["
    "\u0e00-\u0eff"  # Thai, Lao
    "\u0f00-\u0fff"  # Tibetan
    "\u1000-\u109f\uaa60-\uaa7f"  # Myanmar
    "\u1780-\u17ff"  # Khmer
    "\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # Hiragana, Katakana
    "\u2e80-\u2fdf\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"  # Han
    "\U00020000-\U000323af"
    "]"
)
_JOINERS = "\u200c\u200d"  # zero-width: within words of Persian and of Indic scripts, and within emoji


def split_words(text: str) -> tuple[list[int], list[int]]:
    """Words of a text: runs of letters and digits with their marks; every other visible character is a word.

    Example:
        >>> text = "Ana's café, São Paulo"
        >>> [text[start:end] for start, end in zip(*split_words(text))]
        ['Ana', "'", 's', 'café', ',', 'São', 'Paulo']

    Returns:
        (starts, ends) in code points, ends exclusive. White space and control characters belong to no word.
    """
    starts: list[int] = []
    ends: list[int] = []
    goes_on = False
    for position, character in enumerate(text):
        kind = _kind(character)
        follows = bool(ends) and ends[-1] == position
        if follows and (kind == "mark" or (kind == "letter" and goes_on)):
            ends[-1] = position + 1
        elif kind != "space":
            starts.append(position)
            ends.append(position + 1)
            goes_on = kind in ("letter", "mark")
    return starts, ends


def first_tokens(
    word_starts: Sequence[int], word_ends: Sequence[int], token_starts: Sequence[int], token_ends: Sequence[int]
) -> list[int | None]:
    """The first token of each word: the one that carries the word's tag.

    Example:
        >>> first_tokens([0, 4], [3, 9], [0, 2, 4, 7], [2, 3, 7, 9])
        [0, 2]

    Args:
        word_starts: Where each word begins in a text, in code points, ascending.
        word_ends: One past where it ends; words do not overlap.
        token_starts: Where each token begins.
        token_ends: One past where it ends; one that has no characters belongs to no word.

    Returns:
        For each word the first token, in their order, that shares a character with it; None where none does.
    """
    first: list[int | None] = [None] * len(word_starts)
    for token, (start, end) in enumerate(zip(token_starts, token_ends, strict=True)):
        word = bisect_right(word_ends, start)
        while word < len(first) and word_starts[word] < end:
            if first[word] is None and start < end:
                first[word] = token
            word += 1
    return first


def _kind(character: str) -> str:
    if character.isalnum() or character == "_":
        return "single" if _UNSPACED.match(character) else "letter"
    if character in _JOINERS:
        return "mark"
    category = unicodedata.category(character)
    if category[0] == "M":
        return "mark"
    return "space" if character.isspace() or category in ("Cc", "Cf", "Cs") else "single"
