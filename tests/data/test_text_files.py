import csv
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfpipe.core.errors import DataError, DecodeError
from tfpipe.data.sources import open_source, to_pixels
from tfpipe.data.text_files import TextForm, open_text

FORM = TextForm("text_classification")
LANGUAGES = [
    ("Das Paket kam zu spät an.", "delivery"),
    ("配送がとても早かった。", "praise"),
    ("لم أستلم الطلب بعد", "delivery"),
    ("Où est ma facture, s’il vous plaît ?", "payment"),
    ("It said \"sold out\", twice 🙃", "stock"),
]  # fmt: skip


def opened(path, **options):
    return open_text(str(path), TextForm("text_classification", **options))


def samples(source):
    return [(source.read(i)[0], [source.labels[label] for label in source.labels_of(i)]) for i in range(len(source))]


def write(path, content, encoding="utf-8"):
    path.write_bytes(content.encode(encoding))
    return path


def table(rows, delimiter=",", header=("text", "label")):
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter).writerows([header, *rows] if header else rows)
    return file.getvalue()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
def test_texts_of_any_language_are_read_from_tables(tmp_path, name, encoding):
    lines = "\n".join(json.dumps({"label": label, "text": text}, ensure_ascii=False) for text, label in LANGUAGES)
    content = lines if name.endswith("l") else table(LANGUAGES, "\t" if name.endswith("tsv") else ",")

    source = opened(write(tmp_path / name, content, encoding))

    assert source.labels == ("delivery", "payment", "praise", "stock")
    assert samples(source) == [(text, [label]) for text, label in LANGUAGES]
    assert source.identifier(0) == f"{name}:{1 if name.endswith('l') else 2}"
    assert [source.label(i) for i in range(5)] == [0, 2, 0, 1, 3]
    assert not source.multi_label


texts = st.text(st.characters(codec="utf-8", exclude_characters="\r\t"), min_size=1).map(str.lstrip).filter(str.strip)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(rows=st.lists(st.tuples(texts, st.sampled_from(["a", "b"])), min_size=1, max_size=8))
@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_a_table_that_the_csv_module_wrote_is_read_back(tmp_path_factory, name, rows):
    content = table(rows, "\t" if name.endswith("tsv") else ",")
    # Many NULs are refused as UTF-16.
    content = content.replace("\0", "")
    rows = [(text.replace("\0", ""), label) for text, label in rows]
    if not all(text.strip() and text == text.lstrip() for text, _ in rows):
        return

    source = opened(write(tmp_path_factory.mktemp("tables") / name, content))

    assert samples(source) == [(text, [label]) for text, label in rows]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    rows=st.lists(
        st.tuples(st.text('ab "', min_size=1).filter(str.strip), st.sampled_from(["0", "1"])), min_size=1, max_size=8
    )
)
def test_a_tsv_that_was_never_quoted_keeps_one_row_a_line(tmp_path_factory, rows):
    content = "".join(f"{text}\t{label}\n" for text, label in rows)

    source = opened(
        write(tmp_path_factory.mktemp("tables") / "a.tsv", content), columns=("text", "label"), multi_label=False
    )

    assert [source.labels[source.label(i)] for i in range(len(source))] == [label for _, label in rows]
    for index, (text, _) in enumerate(rows):
        assert source.text(index) in (text, text.strip('"').replace('""', '"'), text[1:-1].replace('""', '"'))


def test_a_quote_that_opens_a_field_of_a_tsv_by_mistake_is_a_character(tmp_path):
    path = write(tmp_path / "a.tsv", 'text\tlabel\n"fine\t1\nso-so\t0\nnot "good"\t0\nwell"\t1\n')

    assert [text for text, _ in samples(opened(path))] == ['"fine', "so-so", 'not "good"', 'well"']


def test_a_table_without_a_header_takes_its_columns_from_the_config(tmp_path):
    path = write(tmp_path / "a.tsv", "7\tgood film\t1\n8\tbad film\t0\n")

    source = opened(path, columns=("id", "sentence", "stars"), text_column="sentence", label_column="stars")

    assert samples(source) == [("good film", ["1"]), ("bad film", ["0"])]


def test_classes_that_are_numbers_count_as_numbers(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"text": "a", "label": 10}\n{"text": "b", "label": 9}\n')

    assert opened(path).labels == ("9", "10")


def test_several_labels_of_a_table_are_parted_by_a_bar(tmp_path):
    path = write(tmp_path / "a.csv", "text,label\nlate and broken,delivery|damage\nthanks,\nlate,delivery | delivery\n")

    source = opened(path)

    assert source.multi_label
    assert source.labels == ("damage", "delivery")
    assert [source.labels_of(i) for i in range(3)] == [(0, 1), (), (1,)]
    assert [source.label(i) for i in range(3)] == [0, -1, 1]


def test_several_labels_of_jsonl_are_a_list(tmp_path):
    path = write(
        tmp_path / "a.jsonl",
        '{"text": "a", "label": ["x|y", 3]}\n{"text": "b", "label": []}\n{"text": "c", "label": "x|y"}\n',
    )

    source = opened(path)

    assert samples(source) == [("a", ["3", "x|y"]), ("b", []), ("c", ["x|y"])]


def test_a_bar_is_part_of_a_name_where_the_config_says_one_label(tmp_path):
    source = opened(write(tmp_path / "a.csv", "text,label\na,x|y\nb,z\n"), multi_label=False)

    assert source.labels == ("x|y", "z")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "a.csv",
            "sentence,label\na,b\n",
            "a.csv: expected the columns 'text' and 'label', received 'sentence', 'label'",
        ),
        ("a.csv", "text,label\na,b\nc\n", "1 differ\n.*a.csv, line 3: expected 2 fields, received 1"),
        ("a.csv", "text,label\na,b\nc,\n", "line 3: expected a label, received ''"),
        ("a.csv", "text,label\n", "expected rows in .*a.csv', found none"),
        ("a.csv", "text,text,label\na,b,c\n", "expected distinct columns"),
        ("a.csv", 'text,label\n"a,b\n', "line 2: expected CSV; unexpected end of data"),
        ("a.jsonl", '{"text": null, "label": "a"}', "line 1: expected text, received null"),
        ("a.jsonl", '\n{"text": 5, "label": "a"}', "line 2: expected text, received 5"),
        ("a.jsonl", '{"text": ["a"], "label": "a"}', r'line 1: expected text, received \["a"\]'),
        ("a.jsonl", '{"text": "a", "label": null}', r"expected a label \(text or an integer\), received null"),
        ("a.jsonl", '{"text": "a", "label": 0.5}', "received 0.5"),
        ("a.jsonl", '{"text": "a", "label": true}', "received true"),
        ("a.jsonl", '{"text": "a", "label": [["b"]]}', r'expected a label \(text or an integer\), received \["b"\]'),
        ("a.jsonl", '{"text": "a", "label": ["b", ""]}', "expected labels, received '' among them"),
        (
            "a.jsonl",
            '{"body": "a", "label": "b"}',
            "line 1: expected the keys 'text' and 'label', received 'body', 'label'",
        ),
        (
            "a.jsonl",
            '{"text": "a", "label": "b"}\n{"label": "b"}',
            "1 differ\n.*a.jsonl, line 2: expected the key 'text', received 'label'.$",
        ),
        ("a.jsonl", '{"tokens": ["a"], "tags": ["O"]}', "'tags'. .*Tagged words go with task=token_classification"),
        ("a.csv", "path,label\na.jpg,cat\n", "received 'path', 'label'. .*images with task=image_classification"),
        (
            "a.csv",
            "id,date,from,to,subject,body,label\n" + ",".join("1234567"),
            "'subject', 'body', 'label'. Name yours",
        ),
        ("a.csv", "text\tlabel\nwell, good\t1\n", "'text.tlabel'. Its columns are parted by tabs: name it .tsv."),
        ("a.csv", "", "expected rows in .*a.csv', found none"),
        ("a.jsonl", "\n\n", "expected rows in .*a.jsonl', found none"),
        ("a.jsonl", '["a", "b"]', "expected an object with the keys text and label, received "),
        ("a.jsonl", '{"text": "a\\ud83d", "label": "b"}', "received half of a surrogate pair at character 1"),
        ("a.jsonl", "text", "line 1: expected one JSON object"),
        ("a.txt", "some text", r"expected a folder, a table \(.csv, .tsv, .jsonl, .ndjson\) or a TFRecord file"),
    ],
)
def test_what_cannot_be_used_is_refused_with_its_place(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message):
        opened(write(tmp_path / name, content))


@pytest.mark.parametrize("labels", [["b", "c"], []])
def test_a_list_of_labels_is_refused_where_the_config_says_one(tmp_path, labels):
    path = write(tmp_path / "a.jsonl", json.dumps({"text": "a", "label": labels}))

    with pytest.raises(DataError, match=rf"line 1: expected one label, received a list of {len(labels)}\. Is data"):
        opened(path, multi_label=False)


def test_a_missing_file_is_refused_with_the_nearest_name(tmp_path):
    write(tmp_path / "train.tsv", "")

    with pytest.raises(DataError, match=r"found nothing at .*Did you mean .*train\.tsv'"):
        opened(tmp_path / "trian.tsv")


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl"])
def test_a_text_of_ten_megabytes_is_a_corrupt_sample_and_the_others_are_read(tmp_path, name):
    rows = [("x" * 10_000_000, "a"), ("short", "b")]
    lines = "\n".join(json.dumps({"text": text, "label": label}) for text, label in rows)
    content = lines if name.endswith("l") else table(rows, "\t" if name.endswith("tsv") else ",")

    source = opened(write(tmp_path / name, content))

    with pytest.raises(
        DecodeError, match=r"a.\w+:[12]: expected at most 100000 characters \(data.max_text_chars\), received 10000000"
    ):
        source.read(0)
    assert source.read(1) == ("short", 1)
    assert csv.field_size_limit() < 10_000_000


def test_a_folder_of_text_files_has_a_class_a_folder(tmp_path):
    for place, content in {"neg/1.txt": "schlecht\n", "pos/sub/2.txt": "gut\nund schön", "pos/notes.md": "?"}.items():
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path / place, content)

    source = opened(tmp_path)

    assert samples(source) == [("schlecht", ["neg"]), ("gut\nund schön", ["pos"])]
    assert source.identifier(1) == "pos/sub/2.txt"
    assert source.ignored == ("pos/notes.md",)


def test_files_of_a_folder_that_are_no_text_are_refused_by_name(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.txt").write_bytes(b"caf\xe9 cr\xe8me")

    with pytest.raises(
        DataError, match=r"expected text in every file; 1 differ\n  a/1\.txt: expected UTF-8 text; byte 3"
    ):
        opened(tmp_path)


BYTES = {
    "a.csv": b"text,label\r\ngood \xef\xbf\xbd,x\r\nbad,y\r\n",
    "a.tsv": b"text\tlabel\r\ngood\tx\r\nbad\ty\r\n",
    "a.jsonl": b'{"text": "good", "label": "x"}\r\n\r\n{"text": "bad", "label": "y"}\r\n',
}


@pytest.mark.parametrize("name", BYTES)
def test_lines_that_end_as_on_windows_leave_nothing_in_texts_or_labels(tmp_path, name):
    (tmp_path / name).write_bytes(BYTES[name].replace(b" \xef\xbf\xbd", b""))

    assert samples(opened(tmp_path / name)) == [("good", ["x"]), ("bad", ["y"])]


@pytest.mark.parametrize("name", BYTES)
def test_a_table_that_is_not_utf8_is_refused_with_its_name_and_the_byte(tmp_path, name):
    content = BYTES[name].replace(b"good", b"go\xf6d")
    (tmp_path / name).write_bytes(content)

    with pytest.raises(DecodeError, match=rf"{name}: expected UTF-8 text; byte {content.index(0xF6)} is not"):
        opened(tmp_path / name)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_a_nul_is_a_character_of_its_text(tmp_path, name):
    (tmp_path / name).write_bytes(BYTES[name].replace(b"bad", b"b\0d"))

    assert opened(tmp_path / name).text(1) == "b\0d"


def test_a_table_of_tabs_named_csv_without_a_header_is_refused_with_what_to_do(tmp_path):
    path = write(tmp_path / "a.csv", "good\tx\nwell, bad\ty\n")

    with pytest.raises(
        DataError, match=r"line 1: expected 2 fields, received 1\. Its columns are parted by tabs: name it"
    ):
        opened(path, columns=("text", "label"))


def test_images_are_refused_and_told_from_texts(tmp_path):
    for name in ("cat/1.jpg", "dog/2.jpg"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"")

    with pytest.raises(
        DataError, match=r"expected text files \(.txt\) .* \(.jpg\)\. Images go with task=image_classification"
    ):
        opened(tmp_path)
    with pytest.raises(
        DataError, match=r"received 'digits', which are images\. Set task=image_classification, or data"
    ):
        opened("digits")
    with pytest.raises(DataError, match="received 'digits', which are images"):
        open_text("digits", TextForm("token_classification"))


def test_texts_are_refused_and_told_from_images(tmp_path):
    for name in ("neg/1.txt", "pos/2.txt"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(b"text")
    write(tmp_path / "a.conll", "EU\tB-ORG\n")
    write(tmp_path / "neg" / "notes.md", "")

    with pytest.raises(
        DataError, match=r"expected images .* \(.conll, .md, .txt\)\. Texts go with task=text_classification"
    ):
        open_source(str(tmp_path))
    with pytest.raises(DataError, match=r"a.conll'\. Texts go with .*, tagged words with task=token_classification"):
        open_source(str(tmp_path / "a.conll"))
    with pytest.raises(DataError, match=r"received 'messages', which are texts\. Set task=text_classification"):
        open_source("messages")


def test_the_messages_that_come_with_tfpipe_have_a_label_each_whatever_the_columns_of_other_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    source = opened("messages", columns=("a", "b"), text_column="a", label_column="b")

    assert source.labels == ("account", "delivery", "feedback", "payment", "product", "returns")
    assert len(source) > 1000
    assert not source.multi_label
    assert source.identifier(0) == "support_messages.tsv:2"
    with pytest.raises(DataError, match=r"received 'messages', which have a label each\. Set task=text_classification"):
        open_text("messages", TextForm("token_classification"))


def test_a_folder_called_messages_can_be_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "messages" / "late").mkdir(parents=True)
    write(tmp_path / "messages" / "late" / "1.txt", "Where is it?")

    assert samples(opened("./messages")) == [("Where is it?", ["late"])]


FUNCTIONS = """
class Data:
    labels = ("no", "yes")
    def __init__(self, rows): self.rows = rows
    def __len__(self): return len(self.rows)
    def read(self, index): return self.rows[index]

def by_name(split, config): return Data([("good", "yes"), ("bad", "no")]) if split == "train" else None
def by_index(split, config): return Data([("good", 1), ("bad", 0)])
def several(split, config): return Data([("both", [0, "yes"]), ("none", [])])
def broken(split, config): return Data([("good", 1), (b"bad", 0)])
def tagged(split, config): return Data([(["Ana", "left"], ["B-PER", "O"])])
"""


@pytest.fixture
def functions(tmp_path, monkeypatch, request):
    name = f"texts_{abs(hash(request.node.name))}"
    write(tmp_path / f"{name}.py", FUNCTIONS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def test_a_function_gives_texts_with_names_or_indices(functions):
    expected = [("good", ["yes"]), ("bad", ["no"])]

    assert samples(opened(f"{functions}:by_name")) == samples(opened(f"{functions}:by_index")) == expected
    assert samples(opened(f"{functions}:several")) == [("both", ["no", "yes"]), ("none", [])]
    assert open_text(f"{functions}:by_name", FORM, split="test") is None


def test_a_function_gives_tagged_words(functions):
    source = open_text(f"{functions}:tagged", TextForm("token_classification"))

    assert source.read(0) == (("Ana left", (0, 4), (3, 8), ("B-PER", "O")), 1)


def test_a_function_of_another_task_is_refused_with_the_task(functions):
    with pytest.raises(
        DataError, match=r'expected words and their tags, received "good" and "yes"\. .*task=text_class'
    ):
        open_text(f"{functions}:by_name", TextForm("token_classification"))
    with pytest.raises(DataError, match=r'expected text, received \["Ana", "left"\]\. .*task=token_classification'):
        opened(f"{functions}:tagged")
    with pytest.raises(DecodeError, match=r"received str\. Texts go with task=text_classification"):
        to_pixels(open_source(f"{functions}:by_name").read(0)[0])


def test_a_function_that_gives_bytes_is_refused(functions):
    with pytest.raises(DataError, match=r"sample 000001: expected text, received bytes\. Images go with task="):
        opened(f"{functions}:broken")
