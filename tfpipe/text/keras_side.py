"""keras-nlp's tokenizer layers, against which the ids of training and of the service are proved, text by text."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras_hub  # type: ignore[import-untyped]
import tensorflow as tf

from tfpipe.core.errors import ConfigError, ConversionError
from tfpipe.text.byte_pairs import BytePairOptions, BytePairTokenizer
from tfpipe.text.encoding import Tokenizer
from tfpipe.text.golden import AWKWARD_TEXTS, golden_ids
from tfpipe.text.sentence_pieces import (
    XLM_ROBERTA_TOKENS,
    SentencePieceOptions,
    SentencePieceTokenizer,
)
from tfpipe.text.tokenizer_files import SpecialTokens
from tfpipe.text.unicode_probe import probe_unicode
from tfpipe.text.word_pieces import WordPieceOptions, WordPieceTokenizer

_BATCH = 256
# Layers that are kept compiled: a run has one tokenizer, a test some.
_COMPILED_LAYERS = 8


def keras_layer(tokenizer: Tokenizer) -> Any:
    """A keras-nlp layer with the same vocabulary and options.

    Raises:
        ConfigError: Byte-level BPE: keras-nlp's layer gives other ids eagerly than inside tf.data, and is not used.
    """
    if isinstance(tokenizer, WordPieceTokenizer):
        options = tokenizer.options
        return keras_hub.tokenizers.WordPieceTokenizer(
            vocabulary=list(tokenizer.vocabulary),
            lowercase=options.lowercase,
            strip_accents=options.strip_accents,
            split=options.split,
            split_on_cjk=options.split_on_cjk,
            suffix_indicator=options.suffix_indicator,
            oov_token=tokenizer.special_tokens.unknown,
        )
    if isinstance(tokenizer, SentencePieceTokenizer):
        if tokenizer.options.xlm_roberta_ids:
            return keras_hub.tokenizers.XLMRobertaTokenizer(proto=tokenizer.proto)
        return keras_hub.tokenizers.SentencePieceTokenizer(proto=tokenizer.proto)
    raise ConfigError(
        f"tokenizer: expected wordpiece or sentencepiece, which have a Keras layer, received {tokenizer.kind}."
    )


def has_keras_layer(tokenizer: Tokenizer) -> bool:
    """Whether keras-nlp's layer gives the ids of training; see `keras_layer`."""
    return isinstance(tokenizer, WordPieceTokenizer | SentencePieceTokenizer)


def keras_ids(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """The ids that training sees: those of the Keras layer, compiled, or of the one tokenizer for byte-level BPE.

    Args:
        tokenizer: Its layer is compiled at the first call and kept.
        texts: Any number; they go through the layer in batches.

    Returns:
        One list a text, without special tokens.
    """
    if isinstance(tokenizer, WordPieceTokenizer | SentencePieceTokenizer):
        return _layer_ids(_compiled(tokenizer), texts)
    return golden_ids(tokenizer, texts)


def tokenizer_from_keras(layer: Any) -> Tokenizer:
    """Our tokenizer with the vocabulary and options of a keras-nlp layer, proved equal to it on awkward texts.

    Args:
        layer: A WordPieceTokenizer, SentencePieceTokenizer or BytePairTokenizer, or one of a model derived from them.

    Raises:
        ConfigError: Another layer, or one with a setting that has no counterpart.
        ConversionError: The ids differ.
    """
    tokenizer: Tokenizer
    if isinstance(layer, keras_hub.tokenizers.WordPieceTokenizer):
        tokenizer = _word_pieces(layer)
    elif isinstance(layer, keras_hub.tokenizers.SentencePieceTokenizer):
        tokenizer = _sentence_pieces(layer)
    elif isinstance(layer, keras_hub.tokenizers.BytePairTokenizer):
        # Not proved: the layer disagrees with itself, and does not train.
        return _byte_pairs(layer)
    else:
        raise ConfigError(f"tokenizer: expected a keras-nlp tokenizer, received {type(layer).__name__}.")
    prove(tokenizer, AWKWARD_TEXTS, reference=_layer_ids(_compile(layer, split=splits_words(layer)), AWKWARD_TEXTS))
    return tokenizer


def tokenizer_from_preset(preset: str) -> Tokenizer:
    """Our tokenizer from a keras-nlp preset.

    Args:
        preset: A folder that keras-nlp saved, or a preset's name.

    Raises:
        ConfigError: The preset cannot be loaded: no such folder or name, or no network.
        ConversionError: The ids differ.
    """
    try:
        layer = keras_hub.tokenizers.Tokenizer.from_preset(preset)
    except Exception as error:  # keras-nlp raises what its stores raise: files, HTTP, Kaggle
        raise ConfigError(f"preset {preset!r}: expected a folder or name that keras-nlp can load; {error}") from error
    return tokenizer_from_keras(layer)


def prove(tokenizer: Tokenizer, texts: Sequence[str], *, reference: Sequence[Sequence[int]] | None = None) -> None:
    """Compare the service's ids with those that training sees.

    Args:
        tokenizer: As the service would use it.
        texts: What to compare on.
        reference: Ids that training saw, one sequence a text; made now if not given.

    Raises:
        ConversionError: They differ on a text.
    """
    expected = keras_ids(tokenizer, texts) if reference is None else reference
    for text, wanted, received in zip(texts, expected, golden_ids(tokenizer, texts), strict=True):
        if received != list(wanted):
            raise ConversionError(
                f"tokenizer: for {text[:60]!r} expected the Keras layer's ids {list(wanted)[:16]}, "
                f"received {received[:16]} in the service's tokenizer."
            )


def save_proved(tokenizer: Tokenizer, folder: Path) -> None:
    """Save a tokenizer whose golden ids are those that training sees.

    Raises:
        ConversionError: The service's ids differ from the Keras layer's on a golden text.
    """
    prove(tokenizer, AWKWARD_TEXTS)
    tokenizer.save(folder)


@functools.lru_cache(maxsize=_COMPILED_LAYERS)
def _compiled(tokenizer: WordPieceTokenizer | SentencePieceTokenizer) -> Callable[[Any], Any]:
    return _compile(keras_layer(tokenizer), split=splits_words(tokenizer))


def splits_words(tokenizer: Any) -> bool:
    """Whether a layer (or a tokenizer) cuts texts into words; one that does not takes rows of words."""
    return bool(getattr(getattr(tokenizer, "options", tokenizer), "split", True))


def _compile(layer: Any, *, split: bool) -> Callable[[Any], Any]:
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
    def ids(texts: Any) -> Any:
        # A layer that does not split takes rows of words.
        return layer(texts if split else texts[:, tf.newaxis])

    return ids  # type: ignore[no-any-return]


def _layer_ids(ids: Callable[[Any], Any], texts: Sequence[str]) -> list[list[int]]:
    rows: list[list[int]] = []
    for begin in range(0, len(texts), _BATCH):
        rows += ids(tf.constant([text.encode() for text in texts[begin : begin + _BATCH]])).to_list()
    return rows


def _word_pieces(layer: Any) -> WordPieceTokenizer:
    if layer.special_tokens_in_strings:
        # A stranger's text could then spell [SEP] and mean it.
        raise ConfigError("tokenizer: expected special_tokens_in_strings=False, received True.")
    _refuse_length(layer)
    options = WordPieceOptions(
        lowercase=layer.lowercase,
        strip_accents=layer.strip_accents,
        split=layer.split,
        split_on_cjk=layer.split_on_cjk,
        suffix_indicator=layer.suffix_indicator,
    )
    special = SpecialTokens(
        pad=getattr(layer, "pad_token", "[PAD]"),
        start=getattr(layer, "start_token", "[CLS]"),
        end=getattr(layer, "end_token", "[SEP]"),
        unknown=layer.oov_token,
    )
    return WordPieceTokenizer(layer.get_vocabulary(), options, special, probe_unicode())


def _sentence_pieces(layer: Any) -> SentencePieceTokenizer:
    if layer.add_bos or layer.add_eos:
        raise ConfigError(
            "tokenizer: expected add_bos and add_eos to be False, as rows are packed afterwards, received True."
        )
    _refuse_length(layer)
    if isinstance(layer, keras_hub.tokenizers.XLMRobertaTokenizer):
        return SentencePieceTokenizer(layer.proto, SentencePieceOptions(xlm_roberta_ids=True), XLM_ROBERTA_TOKENS)
    special = SpecialTokens(
        pad=getattr(layer, "pad_token", "<pad>"),
        start=getattr(layer, "start_token", "[CLS]"),
        end=getattr(layer, "end_token", "[SEP]"),
        unknown=getattr(layer, "unk_token", "<unk>"),
    )
    return SentencePieceTokenizer(layer.proto, SentencePieceOptions(), special)


def _byte_pairs(layer: Any) -> BytePairTokenizer:
    _refuse_length(layer)
    special = SpecialTokens(
        pad=getattr(layer, "pad_token", "<pad>"),
        start=getattr(layer, "start_token", "<s>"),
        end=getattr(layer, "end_token", "</s>"),
        unknown="<unk>",
    )
    options = BytePairOptions(add_prefix_space=layer.add_prefix_space)
    merges = [merge for merge in layer.merges if not merge.startswith("#version")]
    return BytePairTokenizer(layer.vocabulary, merges, options, special)


def _refuse_length(layer: Any) -> None:
    if layer.sequence_length is not None:
        raise ConfigError(
            f"tokenizer: expected sequence_length=None, for rows are packed later, received {layer.sequence_length}."
        )
