"""Facts on Unicode that WordPiece needs, as the TensorFlow that trained has them.

TensorFlow's regular expressions (RE2) and foldings (ICU) each follow a version of Unicode of their own, and Python a
third. The table holds their answers for every code point, so that the service needs no TensorFlow and no Python of the
same age. `unicode_probe` asks TensorFlow; this module keeps the answers.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields

from tfpipe.core.errors import BundleError

Ranges = list[list[int]]

# Source: The Unicode Standard 15.0, section 3.12, "Conjoining Jamo Behavior".
_SYLLABLES, _LEADING, _VOWELS, _TRAILING = 0xAC00, 0x1100, 0x1161, 0x11A7
_LEADING_COUNT, _VOWEL_COUNT, _TRAILING_COUNT = 19, 21, 28


@dataclass(frozen=True)
class UnicodeTable:
    """Character classes, foldings, and what canonical order and composition need.

    Attributes:
        source: Versions of the libraries that were asked.
        whitespace: Ranges of code points, ends included, that separate words and are dropped.
        punctuation: Those that are words by themselves.
        ideographs: Those that are words by themselves where Chinese characters are split.
        accents: Nonspacing marks, which the removal of accents removes.
        decomposition: NFD of a character where it is another string; without Hangul, which follows a rule.
        casefold: NFKC_Casefold of a character where it is another string.
        combining: Rank of the canonical combining class, for characters where it is not zero.
        composition: What two characters become under NFC; without Hangul.
    """

    source: dict[str, str]
    whitespace: Ranges
    punctuation: Ranges
    ideographs: Ranges
    accents: Ranges
    decomposition: dict[str, str]
    casefold: dict[str, str]
    combining: dict[str, int]
    composition: dict[str, str]

    def to_bytes(self) -> bytes:
        """JSON in ASCII, so that no editor normalises it; `from_bytes` is its inverse."""
        return json.dumps(asdict(self), separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, content: bytes, *, where: str) -> "UnicodeTable":
        """Read a table.

        Args:
            content: What `to_bytes` gave.
            where: Path for the error message.

        Raises:
            BundleError: It is none.
        """
        try:
            values = json.loads(content)
            return cls(**{field.name: values[field.name] for field in fields(cls)})
        except (ValueError, KeyError, TypeError) as error:
            raise BundleError(f"{where}: expected a table of character classes, received something else.") from error

    def decompositions(self) -> dict[int, str]:
        """NFD by code point, with Hangul; for `str.translate`."""
        mapping = _by_code_point(self.decomposition)
        for syllable, first, second in _hangul():
            mapping[ord(syllable)] = mapping.get(ord(first), first) + second
        return mapping

    def casefolds(self) -> dict[int, str]:
        """NFKC_Casefold by code point; for `str.translate`."""
        return _by_code_point(self.casefold)

    def compositions(self) -> dict[str, str]:
        """What pairs of characters become under NFC, with Hangul."""
        return {**self.composition, **{first + second: syllable for syllable, first, second in _hangul()}}


def to_ranges(code_points: Iterable[int]) -> Ranges:
    """Ranges, ends included, of ascending code points."""
    ranges: Ranges = []
    for code_point in code_points:
        if ranges and ranges[-1][1] == code_point - 1:
            ranges[-1][1] = code_point
        else:
            ranges.append([code_point, code_point])
    return ranges


def members(ranges: Ranges) -> set[int]:
    """All code points of some ranges."""
    return {code_point for first, last in ranges for code_point in range(first, last + 1)}


def pattern_class(ranges: Ranges) -> str:
    """The inside of a regular expression's character class."""
    return "".join(f"\\U{first:08x}-\\U{last:08x}" for first, last in ranges)


def _by_code_point(mapping: dict[str, str]) -> dict[int, str]:
    return {ord(character): string for character, string in mapping.items()}


def _hangul() -> Iterator[tuple[str, str, str]]:
    """Every syllable with the two characters that it is made of, those without a trailing consonant first."""
    for index in range(_LEADING_COUNT * _VOWEL_COUNT):
        leading, vowel = divmod(index, _VOWEL_COUNT)
        yield chr(_SYLLABLES + index * _TRAILING_COUNT), chr(_LEADING + leading), chr(_VOWELS + vowel)
    for index in range(_LEADING_COUNT * _VOWEL_COUNT):
        open_syllable = _SYLLABLES + index * _TRAILING_COUNT
        for trailing in range(1, _TRAILING_COUNT):
            yield chr(open_syllable + trailing), chr(open_syllable), chr(_TRAILING + trailing)
