"""A tokenizer from its folder.

No TensorFlow: the service reads the folder that training wrote, and gets the ids that training saw.
"""

from pathlib import Path

from tfpipe.core.errors import BundleError
from tfpipe.text.encoding import Encoding, Tokenizer
from tfpipe.text.golden import check_golden
from tfpipe.text.tokenizer_files import MANIFEST, read_folder

__all__ = ["Encoding", "Tokenizer", "load_tokenizer"]


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
