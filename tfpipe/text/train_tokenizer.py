"""A vocabulary from the user's own texts: the same texts in the same order give the same vocabulary."""

import io
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import tokenizers
from sentencepiece import SentencePieceTrainer  # type: ignore[import-untyped]
from tokenizers import models, pre_tokenizers, trainers
from tqdm import tqdm

from tfpipe.core.errors import ConfigError, DataError
from tfpipe.text import byte_pairs, sentence_pieces, word_pieces
from tfpipe.text.byte_pairs import BytePairOptions, BytePairTokenizer, byte_level
from tfpipe.text.encoding import Tokenizer, check_text
from tfpipe.text.sentence_pieces import SentencePieceOptions, SentencePieceTokenizer
from tfpipe.text.word_pieces import WordPieceOptions, WordPieceTokenizer

KINDS = ("wordpiece", "bpe", "sentencepiece")

# Pieces that stand side by side once in a corpus are chance.
_MIN_FREQUENCY = 2
# Five special tokens, and a character that begins words and goes on in them.
_MIN_VOCABULARY = 8
_WORDS_A_LINE = 10_000
# Longer texts SentencePiece leaves out without an error; its own default is 4,192 bytes.
_MAX_SENTENCE_BYTES = 1 << 30


def train_tokenizer(
    texts: Iterable[str],
    *,
    kind: str,
    vocabulary_size: int,
    lowercase: bool = False,
    strip_accents: bool = False,
) -> Tokenizer:
    """Make a vocabulary from texts, and a tokenizer with it.

    Example:
        tokenizer = train_tokenizer(texts, kind="wordpiece", vocabulary_size=8000, lowercase=True)
        tokenizer.save(Path("tokenizer"))

    Args:
        texts: Read once, in order; blank ones count for nothing.
        kind: "wordpiece", "bpe" or "sentencepiece".
        vocabulary_size: Tokens, special ones included; fewer come of few texts.
        lowercase: Make no difference between upper and lower case.
        strip_accents: WordPiece only: make no difference between letters with and without accents.

    Raises:
        ConfigError: Unknown kind, an option that the kind lacks, or a vocabulary too small for its characters.
        DataError: No text.
        DecodeError: A text holds a lone surrogate.
    """
    if kind not in KINDS:
        raise ConfigError(f"kind: expected one of {', '.join(KINDS)}, received {kind!r}.")
    if strip_accents and kind != "wordpiece":
        raise ConfigError(f"strip_accents: expected kind wordpiece, which alone can remove accents, received {kind}.")
    if vocabulary_size < _MIN_VOCABULARY:
        raise ConfigError(f"vocabulary_size: expected at least {_MIN_VOCABULARY}, received {vocabulary_size}.")
    filled = _filled(texts)
    if kind == "wordpiece":
        return _train_word_pieces(filled, vocabulary_size, lowercase=lowercase, strip_accents=strip_accents)
    if kind == "bpe":
        return _train_byte_pairs(filled, vocabulary_size, lowercase=lowercase)
    return _train_sentence_pieces(filled, vocabulary_size, lowercase=lowercase)


def _filled(texts: Iterable[str]) -> Iterator[str]:
    """Texts that are not blank, with a progress bar."""
    count = 0
    for text in tqdm(texts, desc="reading texts", unit=" texts", leave=False, disable=None):
        if text.strip():
            check_text(text)
            count += 1
            yield text
    if not count:
        raise DataError("texts: expected texts to make a vocabulary of, received none that is not blank.")


def _train_word_pieces(
    texts: Iterator[str], vocabulary_size: int, *, lowercase: bool, strip_accents: bool
) -> Tokenizer:
    # Imports TensorFlow, which the other kinds do without.
    from tfpipe.text.unicode_probe import probe_unicode

    options = WordPieceOptions(lowercase=lowercase, strip_accents=strip_accents)
    special = [*vars(word_pieces.SPECIAL_TOKENS).values(), "[MASK]"]
    # Its words are those that the finished tokenizer will look up.
    splitter = WordPieceTokenizer(special, options, word_pieces.SPECIAL_TOKENS, probe_unicode())
    # A word may hold white space that is not ASCII's; no token can.
    words = Counter(part for text in texts for word in splitter.words(text) for part in word.split())
    # Each character may need two tokens, one to begin a word and one to go on. Rarer characters become unknown.
    alphabet = _frequent_characters(words, (vocabulary_size - len(special)) // 2)
    words = Counter({word: count for word, count in words.items() if alphabet.issuperset(word) and _looked_up(word)})
    suffixes = sorted({options.suffix_indicator + character for word in words for character in word[1:]})
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary_size,
        min_frequency=_MIN_FREQUENCY,
        # Left to itself, the trainer numbers suffixes by the order of a hash table, another one each time.
        special_tokens=special + suffixes,
        show_progress=False,
        continuing_subword_prefix=options.suffix_indicator,
    )
    learner = tokenizers.Tokenizer(models.WordPiece(unk_token=word_pieces.SPECIAL_TOKENS.unknown))
    learner.pre_tokenizer = pre_tokenizers.Split("\n", "removed")
    learner.train_from_iterator(_repeated(words), trainer)
    vocabulary = learner.get_vocab()
    return WordPieceTokenizer(
        sorted(vocabulary, key=vocabulary.__getitem__), options, word_pieces.SPECIAL_TOKENS, splitter.table
    )


def _looked_up(word: str) -> bool:
    return len(word.encode()) <= word_pieces.MAX_WORD_BYTES


def _frequent_characters(words: Mapping[str, int], limit: int) -> set[str]:
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for character in word:
            counts[character] += count
    return set(sorted(counts, key=lambda character: (-counts[character], character))[:limit])


def _repeated(words: Mapping[str, int]) -> Iterator[str]:
    """Lines of words as often as they were counted, for a trainer that counts for itself."""
    for word, count in words.items():
        for begin in range(0, count, _WORDS_A_LINE):
            yield f"{word}\n" * min(count - begin, _WORDS_A_LINE)


def _train_byte_pairs(texts: Iterator[str], vocabulary_size: int, *, lowercase: bool) -> Tokenizer:
    special = [*vars(byte_pairs.SPECIAL_TOKENS).values(), "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    smallest = len(alphabet) + len(special)
    if vocabulary_size < smallest:
        raise ConfigError(
            f"vocabulary_size: expected at least {smallest}, the 256 bytes and {len(special)} special tokens of bpe, "
            f"received {vocabulary_size}."
        )
    options = BytePairOptions(lowercase=lowercase)
    learner = byte_level(options)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size,
        min_frequency=_MIN_FREQUENCY,
        special_tokens=special,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    model: dict[str, Any] = json.loads(learner.to_str())["model"]
    merges = [" ".join(pair) for pair in model["merges"]]
    return BytePairTokenizer(model["vocab"], merges, options, byte_pairs.SPECIAL_TOKENS)


def _train_sentence_pieces(texts: Iterator[str], vocabulary_size: int, *, lowercase: bool) -> Tokenizer:
    special = sentence_pieces.SPECIAL_TOKENS
    # The trainer holds all of them too, and takes an error of an iterator for its end.
    sentences = list(texts)
    proto = io.BytesIO()
    try:
        SentencePieceTrainer.train(
            sentence_iterator=iter(sentences),
            model_writer=proto,
            vocab_size=vocabulary_size,
            # Few texts give fewer pieces instead of an error.
            hard_vocab_limit=False,
            max_sentence_length=_MAX_SENTENCE_BYTES,
            normalization_rule_name="nmt_nfkc_cf" if lowercase else "nmt_nfkc",
            # Sums of several threads come in any order.
            num_threads=1,
            pad_id=0,
            unk_id=1,
            bos_id=2,
            eos_id=3,
            pad_piece=special.pad,
            unk_piece=special.unknown,
            bos_piece=special.start,
            eos_piece=special.end,
            # A control symbol, not a user's: written out in a text it is text.
            control_symbols=["[MASK]"],
            minloglevel=2,
        )
    except RuntimeError as error:
        raise ConfigError(
            f"vocabulary_size: {vocabulary_size} does not suit the texts; SentencePiece says: {error}."
        ) from error
    return SentencePieceTokenizer(proto.getvalue(), SentencePieceOptions(), special)
