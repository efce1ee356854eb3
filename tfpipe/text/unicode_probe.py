"""Ask TensorFlow what it takes for an accent, a space, punctuation, a case: a `UnicodeTable`. Imports TensorFlow."""

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import keras_hub  # type: ignore[import-untyped]
import numpy as np
import tensorflow as tf
import tensorflow_text  # type: ignore[import-untyped]

from tfpipe.text.unicode_table import UnicodeTable, to_ranges

# Every code point but surrogates, which are no characters.
_CHARACTERS = [chr(code_point) for code_point in range(0x110000) if not 0xD800 <= code_point <= 0xDFFF]


@functools.lru_cache(maxsize=1)
def probe_unicode() -> UnicodeTable:
    """The table of the TensorFlow that is installed, in some seconds; the same object each time."""
    decomposition = _differences(_normalized(_CHARACTERS, "NFD"))
    combining = _combining(decomposition)
    whitespace, punctuation = _delimiters(split_on_cjk=False)
    _, with_ideographs = _delimiters(split_on_cjk=True)
    ideographs = sorted(set(with_ideographs) - set(punctuation))
    accents = tf.strings.regex_full_match(_tensor(_CHARACTERS), r"\p{Mn}").numpy()
    return UnicodeTable(
        source={
            "tensorflow": tf.__version__,
            "tensorflow_text": tensorflow_text.__version__,
            "keras_hub": keras_hub.__version__,
        },
        whitespace=to_ranges(whitespace),
        punctuation=to_ranges(punctuation),
        ideographs=to_ranges(ideographs),
        accents=to_ranges(_chosen(accents)),
        decomposition={character: string for character, string in decomposition.items() if not _is_hangul(character)},
        casefold=_differences(_strings(tensorflow_text.case_fold_utf8(_tensor(_CHARACTERS)))),
        combining=combining,
        composition=_compositions(decomposition),
    )


def _delimiters(*, split_on_cjk: bool) -> tuple[list[int], list[int]]:
    """White space, and what stands alone: with a letter on each side, the layer makes two tokens of it, or three.

    The layer itself is asked, so that its regular expressions need not be known.
    """
    layer = keras_hub.tokenizers.WordPieceTokenizer(vocabulary=["[UNK]", "a", "##a"], split_on_cjk=split_on_cjk)
    # In a function: outside, the layer makes Python lists of a million rows.
    ids = tf.function(lambda texts: layer(texts), autograph=False)(
        _tensor([f"a{character}a" for character in _CHARACTERS])
    )
    lengths = ids.row_lengths().numpy()
    second = np.minimum(ids.row_starts().numpy() + 1, len(ids.flat_values) - 1)
    # The letter itself gives three tokens too, none of them unknown.
    alone = (lengths == 3) & (ids.flat_values.numpy()[second] == 0)
    return _chosen(lengths == 2), _chosen(alone)


def _combining(decomposition: dict[str, str]) -> dict[str, int]:
    """Ranks of canonical combining classes, read off the order in which NFD puts two characters.

    Classes are numbers that NFD does not show. Whether one is lower than another it shows, and no more is needed.
    """
    # Of a low and a high class. Source: The Unicode Standard, UnicodeData.txt: 1 and 240.
    low, high = "\u0334", "\u0345"
    simple = [character for character in _CHARACTERS if character not in decomposition]
    movable = _lower(high, simple) | _higher(low, simple)
    marks = sorted({low, high, *itertools.compress(simple, movable)})
    left = marks
    classes: list[tuple[int, list[str]]] = []
    while left:
        lower = _lower(left[0], marks)
        same = set(itertools.compress(marks, ~(lower | _higher(left[0], marks))))
        classes.append((int(lower.sum()), sorted(same)))
        left = [character for character in left if character not in same]
    return {character: rank for rank, (_, same) in enumerate(sorted(classes), start=1) for character in same}


def _lower(one: str, others: Sequence[str]) -> np.ndarray:
    """Which of `others` NFD moves from behind `one` to before it: those of a lower class."""
    strings = _normalized([one + other for other in others], "NFD")
    return np.array([string != one + other for string, other in zip(strings, others, strict=True)])


def _higher(one: str, others: Sequence[str]) -> np.ndarray:
    """Which of `others` NFD moves from before `one` to behind it: those of a higher class."""
    strings = _normalized([other + one for other in others], "NFD")
    return np.array([string != other + one for string, other in zip(strings, others, strict=True)])


def _compositions(decomposition: dict[str, str]) -> dict[str, str]:
    """Pairs that NFC makes one character of."""
    composites = [character for character in decomposition if not _is_hangul(character)]
    composed = _normalized([decomposition[character] for character in composites], "NFC")
    primary = [character for character, string in zip(composites, composed, strict=True) if character == string]
    firsts = _normalized([decomposition[character][:-1] for character in primary], "NFC")
    return {first + decomposition[character][-1]: character for first, character in zip(firsts, primary, strict=True)}


def _is_hangul(character: str) -> bool:
    return "\uac00" <= character <= "\ud7a3"


def _differences(strings: Sequence[str]) -> dict[str, str]:
    return {character: string for character, string in zip(_CHARACTERS, strings, strict=True) if character != string}


def _chosen(mask: np.ndarray) -> list[int]:
    return [ord(_CHARACTERS[index]) for index in np.flatnonzero(mask)]


def _normalized(strings: Sequence[str], form: str) -> list[str]:
    return _strings(tensorflow_text.normalize_utf8(_tensor(strings), form))


def _tensor(strings: Sequence[str]) -> Any:
    return tf.constant([string.encode() for string in strings])


def _strings(tensor: Any) -> list[str]:
    return [string.decode() for string in tensor.numpy()]
