"""WordPiece without TensorFlow against keras-nlp's layer."""

import pytest
import tensorflow as tf
import tensorflow_text
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.text.texts import any_text, many_texts, word_piece_vocabulary
from tfpipe.core.errors import ConfigError, DecodeError
from tfpipe.text.golden import AWKWARD_TEXTS, golden_ids
from tfpipe.text.keras_side import keras_ids
from tfpipe.text.normalization import AccentRemoval, CaseFolding
from tfpipe.text.unicode_probe import probe_unicode
from tfpipe.text.unicode_table import UnicodeTable
from tfpipe.text.word_pieces import SPECIAL_TOKENS, WordPieceOptions, WordPieceTokenizer

pytestmark = pytest.mark.tensorflow

VOCABULARY = word_piece_vocabulary()
OPTIONS = [
    WordPieceOptions(),
    WordPieceOptions(lowercase=True),
    WordPieceOptions(strip_accents=True, split_on_cjk=False),
    WordPieceOptions(lowercase=True, strip_accents=True),
    WordPieceOptions(lowercase=True, split=False),
    WordPieceOptions(strip_accents=True, split=False),
]


def tokenizer(options, vocabulary=VOCABULARY):
    return WordPieceTokenizer(vocabulary, options, SPECIAL_TOKENS, probe_unicode())


@pytest.fixture(scope="module", params=OPTIONS, ids=str)
def under_test(request):
    return tokenizer(request.param)


@pytest.fixture(scope="module")
def folding_all():
    return tokenizer(WordPieceOptions(lowercase=True, strip_accents=True))


@pytest.fixture(scope="module")
def folding():
    return CaseFolding(probe_unicode())


@pytest.fixture(scope="module")
def removal():
    return AccentRemoval(probe_unicode())


@given(texts=many_texts())
@settings(max_examples=60)
def test_ids_are_those_of_the_keras_layer_for_any_text(under_test, texts):
    assert golden_ids(under_test, texts) == keras_ids(under_test, texts)


def test_ids_are_those_of_the_keras_layer_for_awkward_texts(under_test):
    assert golden_ids(under_test, AWKWARD_TEXTS) == keras_ids(under_test, AWKWARD_TEXTS)


@pytest.mark.parametrize("options", [options for options in OPTIONS if options.split], ids=str)
def test_the_vocabulary_of_these_tests_knows_most_words(options):
    under_test = tokenizer(options)

    ids = [index for text in AWKWARD_TEXTS for index in under_test.encode(text).ids]

    assert ids.count(under_test.unknown_id) < len(ids) / 2


@given(texts=many_texts())
def test_case_is_folded_as_tensorflow_does(folding, texts):
    assert [folding(text).text for text in texts] == [
        string.decode() for string in tensorflow_text.case_fold_utf8([text.encode() for text in texts]).numpy()
    ]


@given(texts=many_texts())
def test_accents_are_removed_as_tensorflow_does(removal, texts):
    decomposed = tensorflow_text.normalize_utf8([text.encode() for text in texts], "NFD")

    assert [removal(text).text for text in texts] == [
        string.decode() for string in tf.strings.regex_replace(decomposed, r"\p{Mn}", "").numpy()
    ]


def test_a_table_is_the_same_after_a_file():
    table = probe_unicode()

    assert UnicodeTable.from_bytes(table.to_bytes(), where="unicode.json") == table


@given(text=any_text())
def test_a_folded_text_is_at_least_as_long_as_foretold(folding, text):
    assert folding.least_length(text) <= len(folding(text).text)


@given(text=any_text())
def test_every_token_has_a_place_in_the_text(under_test, text):
    encoding = under_test.encode(text)

    assert len(encoding.ids) == len(encoding.starts) == len(encoding.ends)
    assert all(0 <= start < end <= len(text) for start, end in zip(encoding.starts, encoding.ends, strict=True))


@given(text=st.text(st.sampled_from("abcABCßﬃéÅÉİΣ\u0301\u0327 ,.中한"), max_size=30))
def test_what_stands_at_a_tokens_place_gives_the_token(folding_all, text):
    under_test = folding_all
    encoding = under_test.encode(text)

    for index, start, end in zip(*encoding, strict=True):
        piece = under_test.vocabulary[index].removeprefix("##")
        assert index == under_test.unknown_id or piece in "".join(under_test.words(text[start:end]))


def places(text, vocabulary, **options):
    encoding = tokenizer(WordPieceOptions(**options), [*VOCABULARY[:5], *vocabulary]).encode(text)
    return [text[start:end] for start, end in zip(encoding.starts, encoding.ends, strict=True)]


@pytest.mark.parametrize(
    ("text", "vocabulary", "expected"),
    [
        ("The  cat.", ["the", "cat", "."], ["The", "cat", "."]),
        ("unseen 中国", ["un", "##seen", "中", "国"], ["un", "seen", "中", "国"]),
        ("a strange word", ["a", "word"], ["a", "strange", "word"]),
        # One character, two tokens.
        ("Maß", ["mas", "##s"], ["Maß", "ß"]),
        ("eﬃ", ["ef", "##f", "##i"], ["eﬃ", "ﬃ", "ﬃ"]),
        # Two characters, one token; the mark belongs to its letter.
        ("e\u0301te\u0301 x", ["\u00e9", "##t\u00e9", "x"], ["e\u0301", "te\u0301", "x"]),
        ("❤\ufe0f x", ["❤", "x"], ["❤\ufe0f", "x"]),
        ("\u1112\u1161\u11ab x", ["한", "x"], ["\u1112\u1161\u11ab", "x"]),
        # İ folds to i and a mark.
        ("İstanbul", ["i\u0307", "##stan", "##bul"], ["İ", "stan", "bul"]),
    ],
)
def test_places_are_those_in_the_callers_own_string(text, vocabulary, expected):
    assert places(text, vocabulary, lowercase=True) == expected


def test_an_accent_that_is_removed_belongs_to_its_letter():
    assert places("cafe\u0301s de\u0301ja\u0300", ["cafe", "##s", "deja"], lowercase=True, strip_accents=True) == [
        "cafe\u0301",
        "s",
        "de\u0301ja\u0300",
    ]


@given(text=any_text())
def test_a_text_gives_the_same_tokens_again(under_test, text):
    # The second time they come from the words that are remembered.
    assert under_test.encode(text) == under_test.encode(text)


def test_remembered_words_are_limited():
    fresh = tokenizer(WordPieceOptions())
    before = fresh.encode("the first word").ids

    for begin in range(0, 60_000, 1000):
        fresh.encode(" ".join(map(str, range(begin, begin + 1000))))

    assert len(fresh._cache) <= 50_000
    assert fresh.encode("the first word").ids == before


def test_a_lone_surrogate_is_refused_with_its_place(under_test):
    with pytest.raises(
        DecodeError, match=r"text: expected Unicode characters, received a lone surrogate U\+D83D at cha"
    ):
        under_test.encode("half of an emoji: \ud83d")


@pytest.mark.parametrize(
    ("vocabulary", "message"),
    [
        (["[PAD]", "[UNK]", "[CLS]"], r"vocabulary: expected the end token '\[SEP\]' among its 3 tokens"),
        (["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "a"], "vocabulary: expected each token once, received 'a' twice"),
        (["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a\n"], r"without line ends, NUL or white space behind, received 'a\\n'"),
        (
            ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "\0a"],
            r"without line ends, NUL or white space behind, received '\\x00a'",
        ),
        (["[PAD]", "[UNK]", "[CLS]", "[SEP]", "é" * 129], "expected tokens of at most 256 bytes"),
    ],
)
def test_a_vocabulary_that_cannot_be_used_is_refused(vocabulary, message):
    with pytest.raises(ConfigError, match=message):
        tokenizer(WordPieceOptions(), vocabulary)
