"""SentencePiece by its own library, which keras-nlp's layer holds as well; with the place of every token."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from sentencepiece import SentencePieceProcessor  # type: ignore[import-untyped]

from tfpipe.core.errors import BundleError, ConfigError
from tfpipe.text.encoding import Encoding, check_text, trimmed
from tfpipe.text.golden import GOLDEN, golden_lines
from tfpipe.text.tokenizer_files import SpecialTokens, StoredTokenizer, write_folder

# As ALBERT spells them, so that a vocabulary trained here fits keras_hub's AlbertTokenizer.
SPECIAL_TOKENS = SpecialTokens(pad="<pad>", start="[CLS]", end="[SEP]", unknown="<unk>")
_VOCABULARY = "vocabulary.spm"
# What stands for a space inside pieces. Source: Kudo and Richardson 2018, arXiv:1808.06226, section 3.1.
_SPACE = "\u2581"

# Ids of fairseq's XLM-R that are not the model's own: its special tokens, and one more than every piece's id.
# Source: keras_hub's XLMRobertaTokenizer; Conneau et al. 2020, arXiv:1911.02116.
XLM_ROBERTA_TOKENS = SpecialTokens(pad="<pad>", start="<s>", end="</s>", unknown="<unk>")
_XLM_ROBERTA_IDS = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3}


@dataclass(frozen=True)
class SentencePieceOptions:
    """What is not in the model's own file.

    Attributes:
        xlm_roberta_ids: Ids as XLM-RoBERTa numbers pieces: one more than the model's, its special tokens in front.
    """

    xlm_roberta_ids: bool = False


class SentencePieceTokenizer:
    """A `Tokenizer` by SentencePiece. Safe to use from several threads.

    A token whose place is empty (`start == end`) is the space that SentencePiece puts before a text.

    Args:
        proto: The serialised model.
        options: What the model does not say.
        special_tokens: Pieces of the model, or those of XLM-RoBERTa.

    Raises:
        ConfigError: The bytes are no model, or it lacks a special token.
    """

    kind = "sentencepiece"

    def __init__(self, proto: bytes, options: SentencePieceOptions, special_tokens: SpecialTokens) -> None:
        self.proto = proto
        self.options = options
        self.special_tokens = special_tokens
        self._processor = _processor(proto)
        self._model_unknown = self._processor.unk_id()
        pieces = int(self._processor.get_piece_size())
        # XLM-RoBERTa adds its padding in front and its mask at the end.
        self.vocabulary_size = pieces + 2 if options.xlm_roberta_ids else pieces
        self.pad_id = self._special(special_tokens.pad, "padding")
        self.start_id = self._special(special_tokens.start, "start")
        self.end_id = self._special(special_tokens.end, "end")
        self.unknown_id = self._special(special_tokens.unknown, "unknown")

    @classmethod
    def from_stored(cls, stored: StoredTokenizer) -> "SentencePieceTokenizer":
        """From a folder's content.

        Raises:
            BundleError: The content is not a SentencePiece tokenizer's.
        """
        try:
            return cls(stored.file(_VOCABULARY), SentencePieceOptions(**stored.options), stored.special_tokens)
        except (ConfigError, TypeError) as error:
            raise BundleError(f"{stored.where}: expected a SentencePiece tokenizer; {error}") from error

    def encode(self, text: str) -> Encoding:
        """See `Tokenizer.encode`."""
        check_text(text)
        pieces = self._processor.encode(text, out_type="immutable_proto").pieces
        ids = [piece.id for piece in pieces]
        if self.options.xlm_roberta_ids:
            ids = [self.unknown_id if index == self._model_unknown else index + 1 for index in ids]
        places = _shared_places([(piece.piece, piece.begin, piece.end) for piece in pieces])
        places = [trimmed(text, start, end) for start, end in places]
        return Encoding(ids, [start for start, _ in places], [end for _, end in places])

    def save(self, folder: Path) -> None:
        """See `Tokenizer.save`."""
        write_folder(
            folder,
            kind=self.kind,
            options=asdict(self.options),
            special_tokens=self.special_tokens,
            files={_VOCABULARY: self.proto, GOLDEN: golden_lines(self)},
        )

    def _special(self, token: str, role: str) -> int:
        if self.options.xlm_roberta_ids and token in _XLM_ROBERTA_IDS:
            return _XLM_ROBERTA_IDS[token]
        index = int(self._processor.piece_to_id(token))
        if self._processor.id_to_piece(index) != token:
            raise ConfigError(
                f"vocabulary: expected the {role} token {token!r} among its {self.vocabulary_size} pieces."
            )
        return index


def _processor(proto: bytes) -> SentencePieceProcessor:
    # The library takes no bytes at all for a model that is yet to come.
    if not proto:
        raise ConfigError("vocabulary: expected a SentencePiece model, received an empty file.")
    try:
        return SentencePieceProcessor(model_proto=proto)
    except RuntimeError as error:
        raise ConfigError(f"vocabulary: expected a SentencePiece model, received something else ({error}).") from error


def _shared_places(pieces: Sequence[tuple[str, int, int]]) -> list[tuple[int, int]]:
    """Places of pieces; where several stand for one character (a ligature, bytes), each gets its place.

    The library gives it to the last of them only.
    """
    places: list[tuple[int, int]] = []
    following = (-1, -1)
    for piece, start, end in reversed(pieces):
        if start == end == following[0] and piece != _SPACE:
            end = following[1]
        following = (start, end)
        places.append(following)
    return places[::-1]
