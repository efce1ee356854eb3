"""What every tokenizer gives, whichever its kind.

text ─▶ Tokenizer.encode ─▶ ids, and where each stands in the caller's string ─▶ packing.pack ─▶ rows
"""

from pathlib import Path
from typing import NamedTuple, Protocol

from tfpipe.core.errors import DecodeError


class Encoding(NamedTuple):
    """The tokens of one text, without special tokens.

    Attributes:
        ids: Token ids.
        starts: Where each token begins, in code points of the caller's own string.
        ends: Where it ends, exclusive. `text[start:end]` is what the token stands for, without white space around it;
            tokens that share a character (the bytes of an emoji) share its place.
    """

    ids: list[int]
    starts: list[int]
    ends: list[int]


class Tokenizer(Protocol):
    """Text to token ids; the same in training and in the service."""

    @property
    def kind(self) -> str:
        """One of "wordpiece", "bpe" and "sentencepiece"."""

    @property
    def vocabulary_size(self) -> int:
        """Ids are below it."""

    @property
    def pad_id(self) -> int:
        """Fills rows up to a common length."""

    @property
    def start_id(self) -> int:
        """Opens a row."""

    @property
    def end_id(self) -> int:
        """Closes a row."""

    @property
    def unknown_id(self) -> int:
        """Stands for what the vocabulary lacks."""

    def encode(self, text: str) -> Encoding:
        """The tokens of any Unicode string; the empty string has none.

        Special tokens written out in the text are text.

        Raises:
            DecodeError: The string holds a lone surrogate, so that it is no Unicode text.
        """

    def save(self, folder: Path) -> None:
        """Write the tokenizer and its golden ids into a folder, made if missing; `load_tokenizer` is its inverse.

        Raises:
            OSError: The disk is full or the folder not writable.
        """


def check_text(text: str) -> None:
    """Refuse what is no Unicode text.

    Raises:
        DecodeError: A lone surrogate, which a Python string may hold and UTF-8 cannot.
    """
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DecodeError(
            f"text: expected Unicode characters, received a lone surrogate U+{ord(text[error.start]):04X} "
            f"at character {error.start}."
        ) from error


def trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """A token's place without the white space around it; a token of white space alone keeps its place.

    Args:
        text: The caller's string.
        start: First code point.
        end: Behind the last.
    """
    covered = text[start:end]
    if not covered or covered.isspace():
        return start, end
    return end - len(covered.lstrip()), start + len(covered.rstrip())
