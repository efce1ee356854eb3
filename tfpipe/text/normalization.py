"""Removal of accents and folding of case, each with where its characters come from.

Source: Unicode Standard Annex #15 (NFD, NFC: decompose, order by combining class, compose) and The Unicode Standard,
section 3.13, toNFKC_Casefold. The facts are those of a `UnicodeTable`, so that the result is TensorFlow's.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tfpipe.text.unicode_table import UnicodeTable, members, pattern_class, to_ranges


class Aligned(NamedTuple):
    """A string made from another.

    Attributes:
        text: The string.
        starts: For each of its characters, the first character of the other string that it comes from.
        ends: Behind the last.
    """

    text: str
    starts: Sequence[int]
    ends: Sequence[int]


class _Piece(NamedTuple):
    character: str
    start: int
    end: int


def unchanged(text: str, *, made_from: str) -> Aligned:
    """A string whose characters come, one by one, from those of another of the same length."""
    return Aligned(text, range(len(made_from)), range(1, len(made_from) + 1))


class AccentRemoval:
    """NFD without nonspacing marks.

    Args:
        table: TensorFlow's facts.
    """

    def __init__(self, table: UnicodeTable) -> None:
        marks = members(table.accents)
        self._marks = {chr(mark) for mark in marks}
        self._decomposition = table.decompositions()
        self._ranks = table.combining
        self._bare = {
            code_point: "".join(character for character in string if ord(character) not in marks)
            for code_point, string in self._decomposition.items()
        } | dict.fromkeys(marks, "")
        self._resizing = _resizing(self._bare)
        # They stay, and canonical order may move them; that order is among the marks that go as well.
        self._movable = _any_of({ord(character) for character in self._ranks} - marks)

    def __call__(self, text: str) -> Aligned:
        """Without accents; a mark that is removed counts to the character before it."""
        bare = text.translate(self._bare)
        if self._movable.search(bare):
            pieces = _ordered(_mapped(text, self._decomposition), self._ranks)
            return _joined(_without(pieces, self._marks))
        if self._resizing.search(text):
            return Aligned(bare, *_places(text, self._bare))
        return unchanged(bare, made_from=text)


class CaseFolding:
    """NFKC_Casefold: characters that differ by case or compatibility become the same, invisible ones vanish.

    Args:
        table: TensorFlow's facts.
    """

    def __init__(self, table: UnicodeTable) -> None:
        self._ranks = table.combining
        self._compositions = table.compositions()
        self._folds = table.casefolds()
        decomposition = table.decompositions()
        self._decomposed_folds = decomposition | {
            code_point: string.translate(decomposition) for code_point, string in self._folds.items()
        }
        self._most_composed = max(map(len, decomposition.values()))
        self._resizing = _resizing(self._folds)
        # Folded characters are in NFC, and so are two side by side, unless the second is ordered or composed.
        seconds = {ord(pair[1]) for pair in self._compositions}
        self._interacting = _any_of({ord(character) for character in self._ranks} | seconds)

    def least_length(self, text: str) -> int:
        """The folded text has at least as many characters; quick, where folding a long text is not."""
        return len(text.translate(self._decomposed_folds)) // self._most_composed

    def __call__(self, text: str) -> Aligned:
        """Folded; a character that vanishes counts to the one before it."""
        folded = text.translate(self._folds)
        if self._interacting.search(folded):
            pieces = _ordered(_mapped(text, self._decomposed_folds), self._ranks)
            return _joined(_composed(pieces, self._ranks, self._compositions))
        if self._resizing.search(text):
            return Aligned(folded, *_places(text, self._folds))
        return unchanged(folded, made_from=text)


def _resizing(mapping: Mapping[int, str]) -> re.Pattern[str]:
    return _any_of({code_point for code_point, string in mapping.items() if len(string) != 1})


def _any_of(code_points: set[int]) -> re.Pattern[str]:
    return re.compile(f"[{pattern_class(to_ranges(sorted(code_points)))}]")


def _places(text: str, mapping: Mapping[int, str]) -> tuple[list[int], list[int]]:
    """Where the characters of a mapped text come from; `_mapped` without the characters, as a text may be long."""
    starts: list[int] = []
    ends: list[int] = []
    for index, character in enumerate(text):
        size = len(mapping.get(ord(character), character))
        if size:
            starts += [index] * size
            ends += [index + 1] * size
        elif ends:
            ends[-1] = index + 1
    return starts, ends


def _mapped(text: str, mapping: Mapping[int, str]) -> list[_Piece]:
    pieces: list[_Piece] = []
    for index, character in enumerate(text):
        string = mapping.get(ord(character), character)
        if string:
            pieces += [_Piece(part, index, index + 1) for part in string]
        elif pieces:
            pieces[-1] = pieces[-1]._replace(end=index + 1)
    return pieces


def _without(pieces: Sequence[_Piece], removed: set[str]) -> list[_Piece]:
    kept: list[_Piece] = []
    for piece in pieces:
        if piece.character not in removed:
            kept.append(piece)
        elif kept:
            kept[-1] = kept[-1]._replace(end=max(kept[-1].end, piece.end))
    return kept


def _ordered(pieces: list[_Piece], ranks: Mapping[str, int]) -> list[_Piece]:
    """Canonical order: runs of combining characters sorted by class, those of one class as they came."""
    begin = 0
    while begin < len(pieces):
        end = begin
        while end < len(pieces) and pieces[end].character in ranks:
            end += 1
        if end - begin > 1:
            pieces[begin:end] = sorted(pieces[begin:end], key=lambda piece: ranks[piece.character])
        begin = end + 1
    return pieces


def _composed(pieces: Sequence[_Piece], ranks: Mapping[str, int], compositions: Mapping[str, str]) -> list[_Piece]:
    """Canonical composition of pieces in canonical order."""
    done: list[_Piece] = []
    starter = -1
    last_rank = 0
    for piece in pieces:
        rank = ranks.get(piece.character, 0)
        # Blocked: a character of the same or a higher class, or any starter, stands between.
        adjacent = starter == len(done) - 1
        if starter >= 0 and (adjacent or last_rank < rank):
            composite = compositions.get(done[starter].character + piece.character)
            if composite is not None:
                base = done[starter]
                done[starter] = _Piece(composite, min(base.start, piece.start), max(base.end, piece.end))
                continue
        if rank == 0:
            starter = len(done)
        last_rank = rank
        done.append(piece)
    return done


def _joined(pieces: Sequence[_Piece]) -> Aligned:
    return Aligned(
        "".join(piece.character for piece in pieces),
        [piece.start for piece in pieces],
        [piece.end for piece in pieces],
    )
