"""A tokenizer from its folder.

No TensorFlow: the service reads the folder that training wrote, and gets the ids that training saw.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tfpipe.core import atomic
from tfpipe.core.bundle import file_sha256
from tfpipe.core.errors import BundleError
from tfpipe.text.encoding import Encoding, Tokenizer
from tfpipe.text.golden import check_golden
from tfpipe.text.tokenizer_files import MANIFEST, read_folder

__all__ = ["Encoding", "SavedTokenizer", "Tokenizer", "load_tokenizer", "open_saved"]

# Of a run and of a bundle: where its tokenizer lies.
FOLDER = "tokenizer"


@dataclass(frozen=True)
class SavedTokenizer:
    """A tokenizer with the folder that it came from, so that the same can be written elsewhere.

    Attributes:
        tokenizer: Proved on its golden texts.
        sha256: Of its tokenizer.json, which holds the sha256 of what it is made of.
        files: Content of the folder by name.
    """

    tokenizer: Tokenizer
    sha256: str
    files: Mapping[str, bytes]

    def write(self, folder: Path) -> None:
        """Write the folder anew, whole or not at all.

        Raises:
            OSError: The disk is full or the folder not writable.
        """
        write_files(self.files, folder)


def write_files(files: Mapping[str, bytes], folder: Path) -> None:
    """Write a folder of files, whole or not at all; an earlier one is replaced.

    Raises:
        OSError: The disk is full or the folder not writable.
    """
    with atomic.staged_folder(folder, replace=True) as staging:
        for name, content in files.items():
            (staging / name).write_bytes(content)


def open_saved(folder: Path) -> SavedTokenizer:
    """Read a tokenizer with its files.

    Raises:
        BundleError: See `load_tokenizer`.
    """
    tokenizer = load_tokenizer(folder)
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    return SavedTokenizer(tokenizer, file_sha256(folder / MANIFEST), {n: (folder / n).read_bytes() for n in names})


def load_tokenizer(folder: Path) -> Tokenizer:
    """Read a tokenizer, and prove it on its golden texts.

    Args:
        folder: What `Tokenizer.save` wrote.

    Raises:
        BundleError: The folder is missing, is no tokenizer's, was changed, or gives other ids than where it was made.
    """
    stored = read_folder(folder)
    tokenizer: Tokenizer
    # Imported by kind: a service needs only the library of the kind that it serves.
    if stored.kind == "wordpiece":
        from tfpipe.text.word_pieces import WordPieceTokenizer

        tokenizer = WordPieceTokenizer.from_stored(stored)
    elif stored.kind == "sentencepiece":
        from tfpipe.text.sentence_pieces import SentencePieceTokenizer

        tokenizer = SentencePieceTokenizer.from_stored(stored)
    elif stored.kind == "bpe":
        from tfpipe.text.byte_pairs import BytePairTokenizer

        tokenizer = BytePairTokenizer.from_stored(stored)
    else:
        raise BundleError(
            f"{folder / MANIFEST}: kind: expected wordpiece, bpe or sentencepiece, received {stored.kind!r}."
        )
    check_golden(tokenizer, folder)
    return tokenizer
