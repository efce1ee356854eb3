"""Vocabularies from texts, and the command that makes them."""

from dataclasses import replace

import pytest

from tests.text.texts import CORPUS
from tfpipe.core.errors import ConfigError, DataError, DecodeError
from tfpipe.data.__main__ import main
from tfpipe.data.corpus import read_texts
from tfpipe.data.pack import pack
from tfpipe.data.text_files import TextForm
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


LABELLED, TAGGED = TextForm("text_classification"), TextForm("token_classification")
CONLL = "one\tO\n\ntwo\tB-X\n,\tI-X\ntoo\tO\n"
FILES = [
    ("a.txt", "one\ntwo, too\n", LABELLED),
    ("a.csv", 'label,text\n0,one\n1,"two, too"\n', LABELLED),
    ("a.tsv", "text\tlabel\none\t0\ntwo, too\t1\n", LABELLED),
    ("a.jsonl", '{"text": "one"}\n{"text": "two, too", "label": 1}\n', LABELLED),
    ("a.tsv", "0\tone\n1\ttwo, too\n", replace(LABELLED, columns=("label", "text"))),
    ("a.tsv", "one\ntwo, too\n", replace(LABELLED, columns=("text",))),
    ("a.csv", 'stars,review\n0,one\n1,"two, too"\n', replace(LABELLED, text_column="review")),
    ("a.tsv", "0\tone\n1\ttwo, too\n", replace(LABELLED, columns=("_", "review"), text_column="review")),
    ("x/a.txt", "one\n", LABELLED),
    ("a.jsonl", '{"text": "one", "entities": []}\n{"text": "two, too", "entities": []}', TAGGED),
]


@pytest.mark.parametrize(("name", "content", "form"), FILES)
def test_texts_are_read_in_order_from_every_form_of_data(tmp_path, name, content, form):
    place = tmp_path / name
    place.parent.mkdir(exist_ok=True)
    place.write_text(content)
    if place.parent != tmp_path:
        (tmp_path / "y").mkdir()
        (tmp_path / "y" / "b.txt").write_text("two, too")
        place = tmp_path

    assert list(read_texts(str(place), form)) == ["one", "two, too"]


def test_words_with_tags_are_texts_without_their_tags(tmp_path):
    (tmp_path / "a.conll").write_text(CONLL)
    (tmp_path / "a.txt").write_text(CONLL)
    (tmp_path / "a.jsonl").write_text(
        '{"tokens": ["one"], "tags": ["O"]}\n{"tokens": ["two", ","], "tags": ["O", "O"]}'
    )

    assert list(read_texts(str(tmp_path / "a.conll"), TAGGED)) == ["one", "two , too"]
    assert list(read_texts(str(tmp_path / "a.txt"), TAGGED)) == ["one", "two , too"]
    assert list(read_texts(str(tmp_path / "a.jsonl"), TAGGED)) == ["one", "two ,"]


def test_packed_texts_are_those_that_were_packed(tmp_path):
    for name, content, form in (("a.tsv", "one\tx\ntwo\ty\n", LABELLED), ("a.conll", CONLL, TAGGED)):
        form = replace(form, columns=("text", "label"))
        (tmp_path / name).write_text(content)
        pack(str(tmp_path / name), tmp_path / "packed", shards=2, overwrite=True, form=form)

        assert sorted(read_texts(str(tmp_path / "packed"), form)) == sorted(read_texts(str(tmp_path / name), form))


def test_the_messages_that_come_with_tfpipe_are_texts():
    assert len(set(read_texts("messages", LABELLED))) > 1000


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"label,sentence\n0,one\n", "a.csv: expected the column 'text', received 'label', 'sentence'. Name "),
        ("a.csv", b"label\ttext\n0\tone\n", "Its columns are parted by tabs: name it .tsv"),
        ("a.csv", b"label,text\n0,one\n0\n", "line 3: expected 2 fields, received 1"),
        ("a.csv", b"text,label\n", "expected rows in .*a.csv', found none"),
        ("a.jsonl", b'{"text": "one"}\n{"text": 2}\n', "line 2: expected text, received 2"),
        ("a.jsonl", b"[]\n", r"line 1: expected an object with the keys text, received \[\]"),
        ("a.txt", "é".encode("latin-1"), "expected UTF-8"),
        ("a.conll", CONLL.encode(), "CoNLL goes with task=token_classification"),
        ("a.parquet", b"", r"expected a folder, a table \(.csv, .tsv, .jsonl, .ndjson\) or a TFRecord"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_its_place(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)

    with pytest.raises(DataError, match=message):
        list(read_texts(str(tmp_path / name), LABELLED))


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"data\.path: expected a data set, found nothing at"):
        list(read_texts(str(tmp_path / "none.txt"), LABELLED))


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


@pytest.mark.tensorflow
def test_the_command_takes_the_keys_of_the_data(texts, capsys):
    (texts / "data.tsv").write_text("".join(f"{index}\t{text}\n" for index, text in enumerate(CORPUS)))
    sentences = ("".join(f"{word}\tO\n" for word in text.split()) for text in CORPUS)
    (texts / "tags.conll").write_text("\n".join(sentences))
    words = ["--kind", "bpe", "--vocabulary-size", "300"]

    assert main(["train-tokenizer", "texts.txt", *words, "--output", "lines"]) == 0
    assert main(["train-tokenizer", "data.tsv", *words, "--output", "table", "data.columns=[id,text]"]) == 0
    assert main(["train-tokenizer", "tags.conll", *words, "--output", "tags", "task=token_classification"]) == 0
    files = ("lines/vocabulary.json", "table/vocabulary.json", "tags/vocabulary.json")
    assert len({(texts / name).read_bytes() for name in files}) == 1
    assert main(["train-tokenizer", "digits", *words, "--output", "x"]) == 2
    assert "expected texts, received 'digits', which are images" in capsys.readouterr().err
    assert main(["train-tokenizer", "texts.txt", *words, "--output", "x", "task=image_classification"]) == 2
    assert main(["train-tokenizer", "texts.txt", *words, "--output", "x", "training.seed=1"]) == 2
    assert "expected one PATH and key=value words (any key of the section data, or task;" in capsys.readouterr().err
    assert not (texts / "x").exists()
