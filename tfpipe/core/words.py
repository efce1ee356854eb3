"""Where the words of a text are: what tags are given to."""

import re
import unicodedata

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


def _kind(character: str) -> str:
    if character.isalnum() or character == "_":
        return "single" if _UNSPACED.match(character) else "letter"
    if character in _JOINERS:
        return "mark"
    category = unicodedata.category(character)
    if category[0] == "M":
        return "mark"
    return "space" if character.isspace() or category in ("Cc", "Cf", "Cs") else "single"
