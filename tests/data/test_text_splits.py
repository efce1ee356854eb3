import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfpipe.config import parse_config
from tfpipe.core.errors import DataError
from tfpipe.data.holding_out import split_texts
from tfpipe.data.pack import pack
from tfpipe.data.sources import open_source
from tfpipe.data.splits import class_counts, open_splits, text_form
from tfpipe.data.text import TextRow, TextSource, join_words
from tfpipe.data.text_files import TextForm, open_text

TOPICS = ("art", "law", "sea")


def config_of(path, task="text_classification", **data):
    return parse_config({"task": task, "data": {"path": str(path), **data}}, where="test")


def write(path, content):
    path.write_text(content, encoding="utf-8")
    return path


def write_table(path, count=30):
    lines = [f"satz nummer {i} über {TOPICS[i % 3]},{TOPICS[i % 3]}" for i in range(count)]
    return write(path, "\n".join(["text,label", *lines]))


def contents(source):
    return {source.identifier(i): (source.content(i), source.labels_of(i), source.label(i)) for i in range(len(source))}


def source_of(rows, kind="single"):
    names = sorted({name for _, labels in rows for name in labels}) or ["x"]
    rows = [TextRow(str(i), text, tuple(labels)) for i, (text, labels) in enumerate(rows)]
    return TextSource(rows, names, kind=kind, max_chars=1000, where="test")


words = st.sampled_from(["Eins", "eins", " eins ", "zwei", "DREI", "drei", "vier", "fünf"])


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    rows=st.lists(st.tuples(words, st.lists(st.sampled_from("abc"), max_size=2, unique=True)), min_size=8, max_size=40),
    fraction=st.floats(0.1, 0.9),
    seed=st.integers(0, 1000),
)
def test_copies_of_a_text_are_on_one_side_and_nothing_is_lost(rows, fraction, seed):
    rows = [*rows, ("sechs", ["a"]), ("sieben", ["a"])]
    source = source_of(rows, kind="multi")

    kept, held_out = split_texts(source, fraction, seed)

    assert sorted([*kept, *held_out]) == list(range(len(rows)))
    assert list(kept) == sorted(kept)
    assert not {rows[i][0].strip().casefold() for i in kept} & {rows[i][0].strip().casefold() for i in held_out}


@settings(max_examples=50, deadline=None, derandomize=True)
@given(counts=st.lists(st.integers(2, 40), min_size=2, max_size=4), fraction=st.floats(0.05, 0.95))
def test_every_class_gives_its_share(counts, fraction):
    rows = [(f"text {label} {i}", [str(label)]) for label, count in enumerate(counts) for i in range(count)]

    _, held_out = split_texts(source_of(rows), fraction, 0)

    taken = np.bincount([int(rows[i][1][0]) for i in held_out], minlength=len(counts))
    for count, number in zip(counts, taken, strict=True):
        assert 1 <= number <= count - 1
        assert abs(number - fraction * count) <= 1


def test_texts_with_entities_are_split_by_themselves():
    tagged = [TextRow(str(i), join_words(["w", str(i)], ["O", "B-X" if i < 10 else "O"])) for i in range(50)]
    source = TextSource(tagged, ("O", "B-X", "I-X"), kind="tags", max_chars=99, where="test")

    _, held_out = split_texts(source, 0.2, 0)

    assert [sum(i < 10 for i in held_out), len(held_out)] == [2, 10]


def test_a_class_of_one_text_cannot_be_split():
    with pytest.raises(
        DataError, match="expected at least 2 different texts in every class to split, received 1 in 'b'"
    ):
        split_texts(source_of([("a", ["a"]), ("c", ["a"]), ("b", ["b"]), ("B", ["b"])]), 0.5, 0)


def test_a_run_gets_its_split_and_a_fingerprint_of_the_content(tmp_path):
    path = write_table(tmp_path / "a.csv")

    splits = open_splits(config_of(path))
    again = open_splits(config_of(path))
    path.write_text(path.read_text(encoding="utf-8").replace("nummer 7", "nummer x"), encoding="utf-8")

    assert (len(splits.train), len(splits.validation), splits.test) == (24, 6, None)
    assert sorted(splits.validation.label(i) for i in range(6)) == [0, 0, 1, 1, 2, 2]
    assert splits.fingerprint == again.fingerprint != open_splits(config_of(path)).fingerprint
    assert isinstance(splits.train.read(0)[0], str)


def test_rows_added_in_front_move_no_other_to_the_other_side(tmp_path):
    before = open_splits(config_of(write_table(tmp_path / "a.csv"))).validation
    header, rest = (tmp_path / "a.csv").read_text(encoding="utf-8").split("\n", 1)
    write(tmp_path / "a.csv", f"{header}\nganz vorn,art\n{rest}")

    after = open_splits(config_of(tmp_path / "a.csv")).validation

    texts = [{source.text(i) for i in range(len(source))} for source in (before, after)]
    assert len(texts[0] - texts[1]) <= 1


def test_validation_labels_must_be_among_those_of_training(tmp_path):
    write_table(tmp_path / "a.csv")
    write(tmp_path / "b.csv", "text,label\nneu,sea\nneuer,sky\n")

    with pytest.raises(DataError, match=r"data.validation_path: expected only labels .*received 'sky' \(b.csv:3\)"):
        open_splits(config_of(tmp_path / "a.csv", validation_path=str(tmp_path / "b.csv")))


def test_validation_counts_in_the_labels_of_training_and_has_as_many(tmp_path):
    write(tmp_path / "a.csv", "text,label\neins,a|c\nzwei,b\n")
    write(tmp_path / "b.csv", "text,label\ndrei,c\n")

    splits = open_splits(config_of(tmp_path / "a.csv", validation_path=str(tmp_path / "b.csv")))

    assert splits.validation.labels == ("a", "b", "c")
    assert splits.validation.labels_of(0) == (2,)
    assert splits.validation.multi_label


def test_tags_of_a_type_that_training_lacks_are_refused(tmp_path):
    write(tmp_path / "a.conll", "Ana\tB-PER\n")
    write(tmp_path / "b.conll", "Ana\tB-PER\nMaria\tI-PER\n\nRom\tB-LOC\n")

    with pytest.raises(DataError, match=r"data.test_path: expected only tags .*received 'B-LOC' \(b.conll:4\)\."):
        open_splits(
            config_of(
                tmp_path / "a.conll",
                "token_classification",
                validation_fraction=0.0,
                test_path=str(tmp_path / "b.conll"),
            )
        )


@pytest.mark.parametrize(
    ("name", "content", "task", "message"),
    [
        ("a.csv", "text,label\na,x\nb,x\n", "text_classification", "expected at least two classes, received one: 'x'"),
        ("a.csv", "text,label\na,|\n", "text_classification", "expected texts with labels, received none"),
        ("a.conll", "a\tO\n", "token_classification", "expected texts with entities, received none"),
    ],
)
def test_data_without_anything_to_learn_are_refused(tmp_path, name, content, task, message):
    write(tmp_path / name, content)

    with pytest.raises(DataError, match=message):
        open_splits(config_of(tmp_path / name, task))


PACKED = {
    "a.csv": ("text_classification", "text,label\nschön,b\nجميل,a\n美しい,b\n"),
    "b.csv": ("text_classification", "text,label\nschön,b|a\nجميل,\n美しい,b\n"),
    "c.conll": ("token_classification", "Ana\tB-PER\n\u200b\tO\n\n北京\tB-LOC\n市\tI-LOC\n\nx\tO\n"),
}


@pytest.mark.parametrize("name", PACKED)
def test_what_was_packed_is_read_back(tmp_path, name):
    task, content = PACKED[name]
    form = TextForm(task)
    source = open_text(str(write(tmp_path / name, content)), form)

    result = pack(str(tmp_path / name), tmp_path / "packed", shards=2, seed=3, form=form)
    again = pack(str(tmp_path / "packed"), tmp_path / "again", shards=1, seed=4, form=form)
    packed = open_text(str(tmp_path / "packed"), form)

    assert contents(packed) == contents(source)
    assert (packed.labels, packed.kind) == (source.labels, source.kind)
    assert (result.num_samples, result.num_shards) == (3, 2)
    assert result.content_sha256 == again.content_sha256


def test_a_damaged_record_is_refused_by_number(tmp_path):
    write_table(tmp_path / "a.csv")
    pack(str(tmp_path / "a.csv"), tmp_path / "packed", shards=1, form=TextForm("text_classification"))
    shard = tmp_path / "packed" / "data-00000-of-00001.tfrecord"
    content = shard.read_bytes()
    shard.write_bytes(content.replace(b"nummer 7 ", b"nummer 8 "))

    with pytest.raises(DataError, match=r"record [0-9]+: expected a record that matches its checksum"):
        open_text(str(tmp_path / "packed"), TextForm("text_classification"))


def test_packs_of_another_task_are_refused(tmp_path):
    write_table(tmp_path / "a.csv")
    pack(str(tmp_path / "a.csv"), tmp_path / "packed", shards=1, form=TextForm("text_classification"))

    with pytest.raises(DataError, match="record 0: expected 'starts', 'ends' and 'tags', found"):
        open_text(str(tmp_path / "packed"), TextForm("token_classification"))
    with pytest.raises(DataError, match="expected one byte string 'image/encoded'"):
        open_source(str(tmp_path / "packed"))


def test_shards_of_others_with_numbers_as_labels_are_read(tmp_path):
    from tfpipe.data import tfrecord

    records = [tfrecord.serialize_example({"text": f"t{i}".encode(), "label": 9 + i % 2}) for i in range(4)]
    (tmp_path / "a.tfrecord").write_bytes(b"".join(map(tfrecord.frame, records)))

    source = open_text(str(tmp_path / "a.tfrecord"), TextForm("text_classification"))

    assert source.labels == ("9", "10")
    assert [source.identifier(3), source.text(3), source.label(3)] == ["a.tfrecord:3", "t3", 1]


def test_the_form_of_a_run_is_that_of_its_config():
    form = text_form(config_of("x", text_column="body", multi_label=True, max_text_chars=7))

    assert form == TextForm("text_classification", text_column="body", multi_label=True, max_text_chars=7)
    assert text_form(config_of("x", "image_classification")) is None


def test_a_share_of_every_class_of_the_messages_is_held_out():
    splits = open_splits(config_of("messages", validation_fraction=0.1))

    counts = [class_counts(source) for source in (splits.train, splits.validation)]
    assert counts[1].tolist() == [20] * 6
    assert (counts[0] + counts[1]).sum() == len(open_text("messages", TextForm("text_classification")))
    assert not {splits.train.group(i) for i in range(len(splits.train))} & {
        splits.validation.group(i) for i in range(len(splits.validation))
    }
