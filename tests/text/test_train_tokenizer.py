"""Vocabularies from texts, and the command that makes them."""

import pytest

from tests.text.texts import CORPUS
from tfpipe.core.errors import ConfigError, DataError, DecodeError
from tfpipe.data.__main__ import main
from tfpipe.data.corpus import read_texts
from tfpipe.text.tokenizer import load_tokenizer
from tfpipe.text.train_tokenizer import train_tokenizer

WORDPIECE = pytest.param("wordpiece", marks=pytest.mark.tensorflow)
KINDS = [WORDPIECE, "bpe", "sentencepiece"]
LATIN = CORPUS[:4] * 5
SIZES = {"wordpiece": (110, 150), "bpe": (270, 310), "sentencepiece": (64, 78)}


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_texts_give_the_same_files(kind, tmp_path):
    for name in ("first", "second"):
        train_tokenizer(iter(CORPUS), kind=kind, vocabulary_size=400).save(tmp_path / name)

    files = sorted(file.name for file in (tmp_path / "first").iterdir())
    assert all((tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes() for name in files)


@pytest.mark.parametrize("kind", KINDS)
def test_a_vocabulary_is_of_the_size_asked_for(kind):
    for size in SIZES[kind]:
        assert train_tokenizer(LATIN, kind=kind, vocabulary_size=size).vocabulary_size == size


@pytest.mark.parametrize("kind", KINDS)
def test_few_texts_give_a_smaller_vocabulary(kind):
    tokenizer = train_tokenizer(["a few words", "a few more words"], kind=kind, vocabulary_size=30_000)

    assert tokenizer.vocabulary_size < 400
    assert tokenizer.unknown_id not in tokenizer.encode("few words").ids


@pytest.mark.parametrize("kind", KINDS)
def test_a_larger_vocabulary_needs_fewer_tokens(kind):
    small, large = (train_tokenizer(LATIN, kind=kind, vocabulary_size=size) for size in SIZES[kind])

    assert sum(len(large.encode(text).ids) for text in LATIN) < sum(len(small.encode(text).ids) for text in LATIN)


@pytest.mark.parametrize("kind", KINDS)
def test_case_makes_no_difference_where_asked(kind):
    tokenizer = train_tokenizer(CORPUS, kind=kind, vocabulary_size=400, lowercase=True)

    assert tokenizer.encode("The FOX").ids == tokenizer.encode("the fox").ids


@pytest.mark.tensorflow
def test_accents_make_no_difference_where_asked():
    tokenizer = train_tokenizer(CORPUS, kind="wordpiece", vocabulary_size=400, lowercase=True, strip_accents=True)

    assert tokenizer.encode("Zéphyr Cœur").ids == tokenizer.encode("zephyr cœur").ids


@pytest.mark.tensorflow
def test_a_word_too_long_to_be_looked_up_is_no_token():
    tokenizer = train_tokenizer([f"{'long' * 100} word"] * 3, kind="wordpiece", vocabulary_size=400)

    assert "word" in tokenizer.vocabulary
    assert max(map(len, tokenizer.vocabulary)) < 10


@pytest.mark.tensorflow
def test_rare_characters_are_unknown_where_the_vocabulary_is_small():
    tokenizer = train_tokenizer(LATIN, kind="wordpiece", vocabulary_size=40)

    assert tokenizer.vocabulary_size <= 40
    assert tokenizer.unknown_id not in tokenizer.encode("see the sea").ids
    assert tokenizer.encode("Boxkämpfer").ids == [tokenizer.unknown_id]


@pytest.mark.tensorflow
def test_special_tokens_come_first_and_padding_is_0(word_pieces):
    assert word_pieces.vocabulary[:5] == ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]")
    assert word_pieces.pad_id == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("texts", [[], ["", "  \n"]])
def test_no_text_is_refused(kind, texts):
    with pytest.raises(DataError, match="texts: expected texts to make a vocabulary of, received none"):
        train_tokenizer(texts, kind=kind, vocabulary_size=400)


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_that_cannot_be_encoded_is_refused(kind):
    with pytest.raises(DecodeError, match=r"lone surrogate U\+D800"):
        train_tokenizer(["fine", "not \ud800"], kind=kind, vocabulary_size=400)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "unigram"}, "kind: expected one of wordpiece, bpe, sentencepiece, received 'unigram'"),
        (
            {"kind": "bpe", "vocabulary_size": 100},
            "vocabulary_size: expected at least 261, the 256 bytes and 5 special",
        ),
        ({"kind": "sentencepiece", "vocabulary_size": 9}, "vocabulary_size: 9 does not suit the texts"),
        ({"kind": "wordpiece", "vocabulary_size": 3}, "vocabulary_size: expected at least 8, received 3"),
        ({"kind": "bpe", "strip_accents": True}, "strip_accents: expected kind wordpiece"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        train_tokenizer(CORPUS, **{"vocabulary_size": 400, **options})


FILES = {
    "texts.txt": "one\ntwo, too\n",
    "texts.csv": 'label,text\n0,one\n1,"two, too"\n',
    "texts.tsv": "text\tlabel\none\t0\ntwo, too\t1\n",
    "texts.jsonl": '{"text": "one"}\n{"text": "two, too", "label": 1}\n',
}


@pytest.mark.parametrize("name", FILES)
def test_texts_are_read_in_order(tmp_path, name):
    (tmp_path / name).write_text(FILES[name])

    assert list(read_texts(tmp_path / name)) == ["one", "two, too"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"label,sentence\n0,one\n", "expected a column 'text', received the columns label, sentence"),
        ("a.csv", b"label,text\n0,one\n0\n", "line 3: expected 2 fields, received 1"),
        ("a.jsonl", b'{"text": "one"}\n{"text": 2}\n', "line 2: text: expected a string, received int"),
        ("a.jsonl", b"[]\n", "line 1: expected a JSON object with 'text'"),
        ("a.txt", "é".encode("latin-1"), "expected UTF-8"),
        ("a.parquet", b"", r"expected \.txt, \.csv, \.tsv, \.jsonl, \.ndjson, received '\.parquet'"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_its_place(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)

    with pytest.raises(DataError, match=message):
        list(read_texts(tmp_path / name))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(DataError, match="expected a file of texts"):
        list(read_texts(tmp_path / "none.txt"))


@pytest.fixture
def texts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts.txt").write_text("\n".join(CORPUS))
    return tmp_path


@pytest.mark.tensorflow
def test_the_command_writes_a_tokenizer_that_can_be_loaded(texts, capsys):
    words = ["--kind", "wordpiece", "--vocabulary-size", "300", "--lowercase", "--output", "made/tokenizer"]

    assert main(["train-tokenizer", "texts.txt", *words]) == 0
    assert capsys.readouterr().out == "Trained a wordpiece tokenizer of 300 tokens: made/tokenizer\n"
    assert load_tokenizer(texts / "made" / "tokenizer").vocabulary_size == 300


@pytest.mark.tensorflow
def test_the_command_replaces_only_where_told(texts, capsys):
    words = ["train-tokenizer", "texts.txt", "--kind", "bpe", "--output", "made", "--vocabulary-size"]

    assert main([*words, "300"]) == 0
    assert main([*words, "310"]) == 2
    assert (
        "--output: expected a new folder, but 'made' exists. Add --overwrite to replace an earlier tokenizer"
        in capsys.readouterr().err
    )
    assert load_tokenizer(texts / "made").vocabulary_size == 300
    assert main([*words, "310", "--overwrite"]) == 0
    assert load_tokenizer(texts / "made").vocabulary_size == 310


@pytest.mark.tensorflow
def test_a_folder_of_something_else_is_never_replaced(texts, capsys):
    (texts / "mine").mkdir()
    (texts / "mine" / "notes.txt").write_text("mine")

    assert main(["train-tokenizer", "texts.txt", "--kind", "bpe", "--output", "mine", "--overwrite"]) == 2
    assert "anything else stays" in capsys.readouterr().err
    assert [path.name for path in (texts / "mine").iterdir()] == ["notes.txt"]
