"""Byte-level BPE by the library `tokenizers`: one tokenizer trains, converts and serves.

Source: Sennrich et al. 2016, arXiv:1508.07909; on bytes: Radford et al. 2019, "Language Models are Unsupervised
Multitask Learners", section 2.2. keras-nlp's layer is not used: it gives other ids eagerly than inside tf.data.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import tokenizers
from tokenizers import models, normalizers, pre_tokenizers

from tfpipe.core.errors import BundleError, ConfigError
from tfpipe.text.encoding import Encoding, check_text, trimmed
from tfpipe.text.golden import GOLDEN, golden_lines
from tfpipe.text.tokenizer_files import SpecialTokens, StoredTokenizer, write_folder

# As RoBERTa spells them.
SPECIAL_TOKENS = SpecialTokens(pad="<pad>", start="<s>", end="</s>", unknown="<unk>")
_VOCABULARY = "vocabulary.json"
_MERGES = "merges.txt"


@dataclass(frozen=True)
class BytePairOptions:
    """How a text is prepared.

    Attributes:
        lowercase: Lower its case first.
        add_prefix_space: Take the first word for one with a space before it.
    """

    lowercase: bool = False
    add_prefix_space: bool = False


class BytePairTokenizer:
    """A `Tokenizer` by byte-level BPE. Safe to use from several threads.

    Args:
        vocabulary: Ids by token, 0 and up without gaps; bytes are spelled as GPT-2 does.
        merges: Pairs "left right" in the order of their rank.
        options: How a text is prepared.
        special_tokens: All in the vocabulary.

    Raises:
        ConfigError: The vocabulary lacks a special token, a byte, or what a merge makes.
    """

    kind = "bpe"

    def __init__(
        self,
        vocabulary: Mapping[str, int],
        merges: Sequence[str],
        options: BytePairOptions,
        special_tokens: SpecialTokens,
    ) -> None:
        self.vocabulary = dict(vocabulary)
        self.merges = tuple(merges)
        self.options = options
        self.special_tokens = special_tokens
        self.vocabulary_size = len(self.vocabulary)
        _check_vocabulary(self.vocabulary)
        self.pad_id = self._special(special_tokens.pad, "padding")
        self.start_id = self._special(special_tokens.start, "start")
        self.end_id = self._special(special_tokens.end, "end")
        self.unknown_id = self._special(special_tokens.unknown, "unknown")
        self._tokenizer = _build(self.vocabulary, self.merges, options)

    @classmethod
    def from_stored(cls, stored: StoredTokenizer) -> "BytePairTokenizer":
        """From a folder's content.

        Raises:
            BundleError: The content is not a BPE tokenizer's.
        """
        try:
            vocabulary = json.loads(stored.file(_VOCABULARY))
            merges = stored.file(_MERGES).decode().splitlines()
            return cls(vocabulary, merges, BytePairOptions(**stored.options), stored.special_tokens)
        except (TypeError, ValueError) as error:
            raise BundleError(f"{stored.where}: expected a byte-level BPE tokenizer; {error}") from error

    def encode(self, text: str) -> Encoding:
        """See `Tokenizer.encode`."""
        check_text(text)
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        places = [trimmed(text, start, end) for start, end in encoding.offsets]
        return Encoding(list(encoding.ids), [start for start, _ in places], [end for _, end in places])

    def save(self, folder: Path) -> None:
        """See `Tokenizer.save`."""
        files = {
            _VOCABULARY: json.dumps(self.vocabulary, ensure_ascii=False, indent=0).encode(),
            _MERGES: "".join(f"{merge}\n" for merge in self.merges).encode(),
            GOLDEN: golden_lines(self),
        }
        write_folder(
            folder, kind=self.kind, options=asdict(self.options), special_tokens=self.special_tokens, files=files
        )

    def _special(self, token: str, role: str) -> int:
        try:
            return self.vocabulary[token]
        except KeyError as error:
            raise ConfigError(
                f"vocabulary: expected the {role} token {token!r} among its {self.vocabulary_size} tokens."
            ) from error


def byte_level(options: BytePairOptions) -> tokenizers.Tokenizer:
    """The library's tokenizer without a vocabulary: what training and use share."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=options.add_prefix_space)
    if options.lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    return tokenizer


def _build(vocabulary: Mapping[str, int], merges: Sequence[str], options: BytePairOptions) -> tokenizers.Tokenizer:
    tokenizer = byte_level(options)
    pairs = []
    for merge in merges:
        left, _, right = merge.partition(" ")
        if not left or not right or " " in right:
            raise ConfigError(f"merges: expected two tokens with a space between, received {merge!r}.")
        pairs.append((left, right))
    try:
        # The special tokens stay out of the library's own list of them, or a text that spells one would get its id.
        tokenizer.model = models.BPE(vocab=dict(vocabulary), merges=pairs)
    except Exception as error:  # the library raises no narrower class
        raise ConfigError(f"merges: expected only tokens of the vocabulary; {error}.") from error
    return tokenizer


def _check_vocabulary(vocabulary: Mapping[str, int]) -> None:
    if sorted(vocabulary.values()) != list(range(len(vocabulary))):
        raise ConfigError(f"vocabulary: expected the ids 0 to {len(vocabulary) - 1}, each once, received others.")
    missing = sorted(set(pre_tokenizers.ByteLevel.alphabet()) - vocabulary.keys())
    if missing:
        # The library drops such a byte without a word.
        raise ConfigError(
            f"vocabulary: expected a token for each of 256 bytes; {len(missing)} lack, among them {missing[0]!r}."
        )
