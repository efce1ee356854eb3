"""What a tokenizer makes of a text, for `validate`: how many tokens, what is cut off, what it does not know."""

from pathlib import Path
from typing import NamedTuple

from tfpipe.core.errors import ConfigError
from tfpipe.text.encoding import Tokenizer
from tfpipe.text.packing import SPECIAL_TOKENS
from tfpipe.text.tokenizer import load_tokenizer

_UNKNOWN_KEPT = 8
_PRESET_FILE = "metadata.json"


class TokenCount(NamedTuple):
    """One text in tokens.

    Attributes:
        num_tokens: Of the whole text, with the two special ones of a row.
        num_unknown: How many of them stand for what the vocabulary lacks.
        unknown: What those stand for, each once, as the text has it; the first few.
        cut_at: The first character of the text that the model does not see; None where it sees all.
    """

    num_tokens: int
    num_unknown: int
    unknown: tuple[str, ...]
    cut_at: int | None


def count_tokens(tokenizer: Tokenizer, text: str, max_length: int) -> TokenCount:
    """Count the tokens of a text.

    Args:
        tokenizer: What the model reads through.
        text: Any Unicode text.
        max_length: Tokens of a row, special ones included; `tfpipe.text.packing.pack` cuts the others off.
    """
    ids, starts, ends = tokenizer.encode(text)
    places = [place for place, token in enumerate(ids) if token == tokenizer.unknown_id]
    surfaces = dict.fromkeys(text[starts[place] : ends[place]] for place in places)
    kept = max_length - SPECIAL_TOKENS
    return TokenCount(
        num_tokens=len(ids) + SPECIAL_TOKENS,
        num_unknown=len(places),
        unknown=tuple(surfaces)[:_UNKNOWN_KEPT],
        cut_at=starts[kept] if len(ids) > kept else None,
    )


def open_tokenizer(name: str) -> Tokenizer:
    """What `preprocessing.tokenizer` names.

    Args:
        name: A folder that `python -m tfpipe.data train-tokenizer` wrote, or a keras-nlp preset.

    Raises:
        BundleError: The folder is no tokenizer's, or was changed.
        ConfigError: There is neither such a folder nor such a preset.
    """
    folder = Path(name).expanduser()
    if folder.is_dir() and not (folder / _PRESET_FILE).is_file():
        return load_tokenizer(folder)
    if "/" in name and "://" not in name and not folder.is_dir():
        raise ConfigError(f"preprocessing.tokenizer: expected a tokenizer's folder, found none at {name!r}.")
    # Imports TensorFlow, which a folder of ours does without.
    from tfpipe.text.keras_side import tokenizer_from_preset

    return tokenizer_from_preset(name)
