"""WordPiece as keras-nlp's layer does it, without TensorFlow, and with the place of every token.

    text ─▶ up to the first NUL ─▶ without accents ─▶ words ─▶ each folded ─▶ longest pieces of the vocabulary

Source: Wu et al. 2016, arXiv:1609.08144, section 4.1; what counts as an accent, a space, punctuation and a case is as
TensorFlow has it (`UnicodeTable`). Ids are equal to the layer's for any Unicode string: tests/text/test_word_pieces.py.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from tfpipe.core.errors import BundleError, ConfigError
from tfpipe.text.encoding import Encoding, check_text
from tfpipe.text.golden import GOLDEN, golden_lines
from tfpipe.text.normalization import AccentRemoval, Aligned, CaseFolding, unchanged
from tfpipe.text.tokenizer_files import SpecialTokens, StoredTokenizer, write_folder
from tfpipe.text.unicode_table import UnicodeTable, pattern_class

SPECIAL_TOKENS = SpecialTokens(pad="[PAD]", start="[CLS]", end="[SEP]", unknown="[UNK]")
_VOCABULARY = "vocabulary.txt"
_UNICODE = "unicode.json"

# tensorflow_text's FastWordpieceTokenizer, max_bytes_per_word: a longer word is one unknown token.
MAX_WORD_BYTES = 100
# The longest token that its vocabulary takes.
_MAX_TOKEN_BYTES = 256
# Words that are remembered with their pieces; some 20 MB at most.
_CACHED_WORDS = 50_000

# Id, start and end within a word.
_Piece = tuple[int, int, int]


@dataclass(frozen=True)
class WordPieceOptions:
    """What the Keras layer is set to.

    Attributes:
        lowercase: Fold case, by NFKC_Casefold.
        strip_accents: Decompose, and remove nonspacing marks.
        split: Split at white space and punctuation; if false, a text is one word.
        split_on_cjk: Make each Chinese character a word.
        suffix_indicator: What begins the vocabulary's pieces that continue a word.
    """

    lowercase: bool = False
    strip_accents: bool = False
    split: bool = True
    split_on_cjk: bool = True
    suffix_indicator: str = "##"


class WordPieceTokenizer:
    """A `Tokenizer` by WordPiece. Safe to use from several threads.

    Args:
        vocabulary: Tokens in the order of their ids.
        options: As the Keras layer has them.
        special_tokens: All in the vocabulary.
        table: TensorFlow's facts on Unicode.

    Raises:
        ConfigError: The vocabulary lacks a special token, has a token twice, or one that its file could not hold.
    """

    kind = "wordpiece"

    def __init__(
        self,
        vocabulary: Sequence[str],
        options: WordPieceOptions,
        special_tokens: SpecialTokens,
        table: UnicodeTable,
    ) -> None:
        self.vocabulary = tuple(vocabulary)
        self.options = options
        self.special_tokens = special_tokens
        self.table = table
        ids = _ids(self.vocabulary)
        self.vocabulary_size = len(self.vocabulary)
        self.pad_id = _special(ids, special_tokens.pad, "padding")
        self.start_id = _special(ids, special_tokens.start, "start")
        self.end_id = _special(ids, special_tokens.end, "end")
        self.unknown_id = _special(ids, special_tokens.unknown, "unknown")
        suffix = options.suffix_indicator
        self._first = ids
        self._next = {token[len(suffix) :]: index for token, index in ids.items() if token.startswith(suffix)}
        self._longest = max(map(len, self.vocabulary))
        self._words = _word_pattern(options, table)
        self._without_accents: Callable[[str], Aligned] | None = AccentRemoval(table) if options.strip_accents else None
        self._folded = CaseFolding(table) if options.lowercase else None
        self._cache: dict[str, list[_Piece]] = {}

    @classmethod
    def from_stored(cls, stored: StoredTokenizer) -> "WordPieceTokenizer":
        """From a folder's content.

        Raises:
            BundleError: The content is not a WordPiece tokenizer's.
        """
        try:
            # Not splitlines: it splits at characters that a token may hold.
            vocabulary = stored.file(_VOCABULARY).decode().removesuffix("\n").split("\n")
            table = UnicodeTable.from_bytes(stored.file(_UNICODE), where=f"{stored.where}/{_UNICODE}")
            return cls(vocabulary, WordPieceOptions(**stored.options), stored.special_tokens, table)
        except (ConfigError, TypeError, UnicodeDecodeError) as error:
            raise BundleError(f"{stored.where}: expected a WordPiece tokenizer; {error}") from error

    def encode(self, text: str) -> Encoding:
        """See `Tokenizer.encode`. With `split`, text behind a NUL is dropped: TensorFlow's splitting ends there."""
        check_text(text)
        ids: list[int] = []
        starts: list[int] = []
        ends: list[int] = []
        bare, first, behind = self._bare(text)
        for match in self._words.finditer(bare):
            begin = match.start()
            for index, start, end in self._pieces(match.group()):
                ids.append(index)
                starts.append(first[begin + start])
                ends.append(behind[begin + end - 1])
        return Encoding(ids, starts, ends)

    def words(self, text: str) -> list[str]:
        """The words of a text, folded, as they are looked up in the vocabulary."""
        check_text(text)
        return [self._fold(word).text for word in self._words.findall(self._bare(text).text)]

    def save(self, folder: Path) -> None:
        """See `Tokenizer.save`."""
        files = {
            _VOCABULARY: "".join(f"{token}\n" for token in self.vocabulary).encode(),
            _UNICODE: self.table.to_bytes(),
            GOLDEN: golden_lines(self),
        }
        write_folder(
            folder, kind=self.kind, options=asdict(self.options), special_tokens=self.special_tokens, files=files
        )

    def _bare(self, text: str) -> Aligned:
        if self.options.split:
            text = text.partition("\0")[0]
        if self._without_accents is None or text.isascii():
            return unchanged(text, made_from=text)
        return self._without_accents(text)

    def _fold(self, word: str) -> Aligned:
        if self._folded is None:
            return unchanged(word, made_from=word)
        if word.isascii():
            return unchanged(word.lower(), made_from=word)
        return self._folded(word)

    def _pieces(self, word: str) -> list[_Piece]:
        pieces = self._cache.get(word)
        if pieces is None:
            pieces = self._longest_pieces(word)
            # A word that is too long for the vocabulary would fill memory, and seldom comes twice.
            if len(word) <= MAX_WORD_BYTES:
                if len(self._cache) >= _CACHED_WORDS:
                    self._cache.clear()
                self._cache[word] = pieces
        return pieces

    def _longest_pieces(self, word: str) -> list[_Piece]:
        unknown = [(self.unknown_id, 0, len(word))]
        if len(word) > MAX_WORD_BYTES and self._folded and self._folded.least_length(word) > MAX_WORD_BYTES:
            return unknown
        folded, starts, ends = self._fold(word)
        if len(folded) > MAX_WORD_BYTES or len(folded.encode()) > MAX_WORD_BYTES:
            return unknown
        pieces: list[_Piece] = []
        begin = 0
        while begin < len(folded):
            known = self._next if begin else self._first
            for end in range(min(len(folded), begin + self._longest), begin, -1):
                index = known.get(folded[begin:end])
                if index is not None:
                    break
            else:
                return unknown
            pieces.append((index, min(starts[begin:end]), max(ends[begin:end])))
            begin = end
        return pieces


def _word_pattern(options: WordPieceOptions, table: UnicodeTable) -> re.Pattern[str]:
    if not options.split:
        return re.compile(".+", re.DOTALL)
    alone = pattern_class(table.punctuation + (table.ideographs if options.split_on_cjk else []))
    return re.compile(f"[{alone}]|[^{alone}{pattern_class(table.whitespace)}]+")


def _ids(vocabulary: Sequence[str]) -> dict[str, int]:
    ids = {token: index for index, token in enumerate(vocabulary)}
    if len(ids) < len(vocabulary):
        twice = next(token for index, token in enumerate(vocabulary) if ids[token] != index)
        raise ConfigError(f"vocabulary: expected each token once, received {twice!r} twice.")
    for token in vocabulary:
        # Keras's vocabulary file would lose the one, TensorFlow's dictionary does not take the others.
        if token != token.rstrip() or not set("\n\r\0").isdisjoint(token) or len(token.encode()) > _MAX_TOKEN_BYTES:
            raise ConfigError(
                f"vocabulary: expected tokens of at most {_MAX_TOKEN_BYTES} bytes, without line ends, NUL or white "
                f"space behind, received {token[:60]!r}."
            )
    return ids


def _special(ids: dict[str, int], token: str, role: str) -> int:
    try:
        return ids[token]
    except KeyError as error:
        raise ConfigError(f"vocabulary: expected the {role} token {token!r} among its {len(ids)} tokens.") from error
