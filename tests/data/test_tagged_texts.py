import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfpipe.core.entities import entity_spans
from tfpipe.core.errors import DataError, DecodeError
from tfpipe.core.words import split_words
from tfpipe.data.tagged_jsonl import tag_entities
from tfpipe.data.text_files import TextForm, open_text

CONLL = """-DOCSTART- -X- O O

# id 1
EU NNP B-NP B-ORG
rejects VBZ B-VP O

# newdoc
Zürich\u00a0West NNP B-NP B-LOC
. . O O
"""


def opened(path, **options):
    return open_text(str(path), TextForm("token_classification", **options))


def write(path, content):
    path.write_text(content, encoding="utf-8", newline="")
    return path


def words(tagged):
    return [tagged.text[start:end] for start, end in zip(tagged.starts, tagged.ends, strict=True)]


def tagged_words(source):
    contents = [source.read(i)[0] for i in range(len(source))]
    return [list(zip(words(content), content.tags, strict=True)) for content in contents]


def test_sentences_of_a_conll_file_are_texts_of_words_with_tags(tmp_path):
    content = "EU\tB-ORG\nrejects\tO\n\n\n北京\tB-LOC\n市\tI-LOC\n"

    source = opened(write(tmp_path / "a.conll", content))

    assert source.read(0) == (("EU rejects", (0, 3), (2, 10), ("B-ORG", "O")), 1)
    assert tagged_words(source)[1] == [("北京", "B-LOC"), ("市", "I-LOC")]
    assert source.labels == ("O", "B-LOC", "I-LOC", "B-ORG", "I-ORG")
    assert [source.identifier(i) for i in range(2)] == ["a.conll:1", "a.conll:5"]


def test_the_first_column_is_the_word_the_last_the_tag_and_comments_are_none(tmp_path):
    source = opened(write(tmp_path / "a.txt", CONLL))

    assert tagged_words(source) == [
        [("EU", "B-ORG"), ("rejects", "O")],
        [("Zürich\u00a0West", "B-LOC"), (".", "O")],
    ]


def test_a_hash_with_a_tag_is_a_word(tmp_path):
    source = opened(
        write(tmp_path / "a.conll", "# newdoc\n#\tO\n#Berlin\tB-LOC\r\n\r\n# text = to Bonn\nBonn\tB-LOC\n")
    )

    assert tagged_words(source) == [[("#", "O"), ("#Berlin", "B-LOC")], [("Bonn", "B-LOC")]]


def test_columns_of_a_conll_file_can_be_named(tmp_path):
    path = write(tmp_path / "a.tsv", "1\tAachen\tB-LOC\tO\n2\tlag\tO\tO\n")

    source = opened(path, columns=("number", "word", "outer", "inner"), text_column="word", label_column="outer")

    assert tagged_words(source) == [[("Aachen", "B-LOC"), ("lag", "O")]]


ANY = {"a.conll": "Zürich\tB-LOC\nlag\tO\n", "a.jsonl": '{"tokens": ["Zürich", "lag"], "tags": ["B-LOC", "O"]}\n'}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("name", ANY)
def test_encoding_and_ends_of_lines_leave_nothing_in_words_or_tags(tmp_path, name, encoding):
    (tmp_path / name).write_bytes(ANY[name].replace("\n", "\r\n").encode(encoding))

    assert tagged_words(opened(tmp_path / name)) == [[("Zürich", "B-LOC"), ("lag", "O")]]


@pytest.mark.parametrize("name", ANY)
def test_tagged_words_that_are_not_utf8_are_refused_with_their_file(tmp_path, name):
    (tmp_path / name).write_bytes(ANY[name].encode("latin-1"))

    with pytest.raises(DecodeError, match=f"{name}: expected UTF-8 text; byte "):
        opened(tmp_path / name)


def test_columns_that_are_not_needed_may_share_a_name(tmp_path):
    path = write(tmp_path / "a.conll", "EU NNP I-NP B-ORG\n")

    assert tagged_words(opened(path, columns=("text", "_", "_", "label"))) == [[("EU", "B-ORG")]]
    with pytest.raises(
        DataError, match=r"data\.columns: expected the columns 'text' and 'label', received '_', 'label'"
    ):
        opened(path, columns=("_", "label"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("EU\tB-ORG\nrejects\n", "a.conll, line 2: expected 2 columns, received 1"),
        ("EU\n", "line 1: expected 2 columns, received 1"),
        ("EU\tB-ORG\n\tO\n", "line 2: expected a word, received ''"),
        ("EU\tORG\n", "line 1: expected a tag: O, or B-, I-, E- or S- and a type; received 'ORG'"),
        ("EU\tB-\n", "received 'B-'"),
        ("EU\tU-ORG\n", "received 'U-ORG'"),
        ("\n\n", "expected sentences in .*a.conll', found none"),
        ("", "expected sentences in .*a.conll', found none"),
        ("good film\t1\n", "1 differ\n.*\nTexts with a label each go with task=text_classification"),
    ],
)
def test_lines_that_cannot_be_used_are_refused_with_their_number(tmp_path, content, message):
    with pytest.raises(DataError, match=message):
        opened(write(tmp_path / "a.conll", content))


def test_tags_of_the_scheme_are_labels_even_where_they_do_not_occur(tmp_path):
    source = opened(write(tmp_path / "a.conll", "EU\tS-ORG\n"))

    assert source.labels == ("O", "B-ORG", "I-ORG", "E-ORG", "S-ORG")


def test_tokens_and_tags_of_jsonl_are_read(tmp_path):
    source = opened(write(tmp_path / "a.jsonl", '{"tokens": ["Ana", "ging"], "tags": ["B-PER", "O"]}\n'))

    assert source.read(0) == (("Ana ging", (0, 4), (3, 8), ("B-PER", "O")), 1)


def test_entities_with_offsets_tag_the_words_of_the_callers_text(tmp_path):
    text = "Ana  visitó São Paulo, no東京 🙂."
    entities = [{"start": 12, "end": 21, "label": "LOC"}, {"start": 0, "end": 3, "label": "PER"}]
    line = json.dumps({"text": text, "entities": [*entities, {"start": 25, "end": 27, "label": "LOC"}]})

    source = opened(write(tmp_path / "a.jsonl", line))

    content, _ = source.read(0)
    assert content.text == text
    assert [(word, tag) for word, tag in tagged_words(source)[0] if tag != "O"] == [
        ("Ana", "B-PER"), ("São", "B-LOC"), ("Paulo", "I-LOC"), ("東", "B-LOC"), ("京", "I-LOC"),
    ]  # fmt: skip


@settings(max_examples=200, deadline=None, derandomize=True)
@given(text=st.text("ab é.東\u0301🙂 ", max_size=30), data=st.data())
def test_entities_of_whole_words_are_read_back_from_the_tags(text, data):
    starts, ends = split_words(text)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(starts)), max_size=6)))
    pairs = list(zip(cuts[::2], cuts[1::2], strict=False))
    entities = [(starts[first], ends[last - 1], "X") for first, last in pairs]

    tagged = tag_entities(text, entities)

    spans = entity_spans(tagged.tags)
    assert [(tagged.starts[span.start], tagged.ends[span.end - 1], span.label) for span in spans] == entities


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            '{"tokens": ["a", "b"], "tags": ["O"]}',
            "line 1: expected as many tags as tokens, received 1 tags for 2 tokens",
        ),
        ('{"tokens": "a", "tags": ["O"]}', 'expected a list of tokens, received "a"'),
        ('{"tokens": ["a", 5], "tags": ["O", "O"]}', "expected tokens as text, received 5"),
        ('{"tokens": ["a"], "tags": [null]}', "received None"),
        ('{"tokens": ["a"], "label": ["O"]}', "expected an object with the keys tokens and tags, or text and entities"),
        ('{"text": "Anna", "entities": [{"start": 0, "end": 2, "label": "X"}]}', "'An' at 0, which cuts 'Anna'"),
        (
            '{"text": "Anna", "entities": [{"start": 0, "end": 9, "label": "X"}]}',
            "within the 4 characters, received 0 to 9",
        ),
        ('{"text": "a  b", "entities": [{"start": 1, "end": 3, "label": "X"}]}', "at least one word"),
        ('{"text": "a", "entities": [{"start": 0, "end": 1}]}', "with the keys start, end and label"),
        ('{"text": "a", "entities": [{"start": 0.0, "end": 1, "label": "X"}]}', "expected integer offsets"),
        ('{"text": 7, "entities": []}', "expected text, received 7"),
        (
            '{"text": "a b", "entities": [{"start": 0, "end": 3, "label": "X"}, {"start": 2, "end": 3, "label": "Y"}]}',
            "do not overlap",
        ),
    ],
)
def test_lines_of_jsonl_that_cannot_be_used_are_refused(tmp_path, line, message):
    with pytest.raises(DataError, match=message):
        opened(write(tmp_path / "a.jsonl", line))


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [("a.conll", "EU\tB-ORG\n\n", "film\t1\n"), ("a.jsonl", '{"tokens": [], "tags": []}\n', '{"text": "film"}\n')],
)
def test_another_task_is_named_only_where_nothing_has_tags(tmp_path, name, good, bad):
    with pytest.raises(DataError, match="task=text_classification"):
        opened(write(tmp_path / name, bad + bad))
    with pytest.raises(DataError) as caught:
        opened(write(tmp_path / name, good + bad))

    assert "1 differ" in str(caught.value)
    assert "task=" not in str(caught.value)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(
        DataError, match=r"expected a CoNLL file, a JSONL file or TFRecord shards .*Texts with a label each go with"
    ):
        opened(write(tmp_path / "a.csv", "text,label\n"))
