import gzip
import io
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.image_files import jpeg, png
from tfpipe.core.errors import DataError, DecodeError
from tfpipe.data import tfrecord
from tfpipe.data.sources import open_source
from tfpipe.data.wire import Span

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

NAME = Path("x.tfrecord")
FEATURES = st.dictionaries(
    st.text(max_size=12), st.one_of(st.binary(max_size=300), st.integers(-(2**63), 2**63 - 1)), max_size=8
)


def example(**features):
    """A record of image, label and text; None leaves a feature out."""
    names = {
        "image": "image/encoded",
        "label": "image/class/label",
        "text": "image/class/text",
        "file": "image/filename",
    }
    return tfrecord.serialize_example({names[key]: value for key, value in features.items() if value is not None})


def write(path, records):
    path.write_bytes(b"".join(map(tfrecord.frame, records)))
    return path


def opened(path, records):
    return open_source(str(write(path, records)))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(records=st.lists(st.binary(max_size=300), max_size=6))
def test_frames_give_back_the_records(records):
    content = b"".join(map(tfrecord.frame, records))

    frames = list(tfrecord.scan(content, NAME))

    assert [content[frame.span.start : frame.span.stop] for frame in frames] == records
    assert [frame.crc for frame in frames] == list(map(tfrecord.masked_crc, records))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(records=st.lists(st.binary(max_size=60), min_size=1, max_size=4), data=st.data())
def test_a_cut_within_a_record_is_always_noticed(records, data):
    frames = list(map(tfrecord.frame, records))
    content = b"".join(frames)
    ends = {sum(map(len, frames[:count])) for count in range(len(frames) + 1)}
    cut = data.draw(st.integers(0, len(content)).filter(lambda place: place not in ends))

    with pytest.raises(DataError, match="ends within it"):
        list(tfrecord.scan(content[:cut], NAME))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(features=FEATURES)
def test_examples_give_back_their_features(features):
    record = tfrecord.serialize_example(features)

    found = tfrecord.parse_example(record, Span(0, len(record)), frozenset(features))

    for name, value in features.items():
        (got,) = found[name]
        assert (record[got.start : got.stop] if isinstance(got, Span) else got) == value


@settings(max_examples=200, deadline=None, derandomize=True)
@given(record=st.binary(max_size=200))
def test_any_bytes_give_features_or_a_value_error(record):
    try:
        found = tfrecord.parse_example(record, Span(0, len(record)), frozenset({"image/encoded"}))
    except ValueError:
        return

    assert set(found) <= {"image/encoded"}


@pytest.mark.tensorflow
@settings(max_examples=100, deadline=None, derandomize=True)
@given(features=FEATURES)
def test_tensorflow_reads_examples_as_they_were_meant(features):
    import tensorflow as tf

    def feature(value):
        if isinstance(value, bytes):
            return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))

    theirs = tf.train.Example(features=tf.train.Features(feature={k: feature(v) for k, v in features.items()}))

    assert tf.train.Example.FromString(tfrecord.serialize_example(features)) == theirs


@pytest.mark.tensorflow
@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    image=st.binary(max_size=400),
    numbers=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=4),
    floats=st.lists(st.floats(width=32, allow_nan=False), max_size=4),
)
def test_examples_that_tensorflow_wrote_are_read(image, numbers, floats):
    import tensorflow as tf

    written = tf.train.Example()
    written.features.feature["image/encoded"].bytes_list.value.append(image)
    written.features.feature["image/class/label"].int64_list.value.extend(numbers)
    written.features.feature["image/object/bbox/xmin"].float_list.value.extend(floats)
    record = written.SerializeToString()

    found = tfrecord.parse_example(
        record, Span(0, len(record)), frozenset({"image/encoded", "image/class/label", "image/object/bbox/xmin"})
    )

    (span,) = found["image/encoded"]
    assert record[span.start : span.stop] == image
    assert found.get("image/class/label", []) == numbers
    assert "image/object/bbox/xmin" not in found


@pytest.mark.tensorflow
@pytest.mark.parametrize("compression", ["", "GZIP"])
def test_files_that_tensorflow_wrote_are_read(tmp_path, compression):
    import tensorflow as tf

    images = [jpeg(seed) for seed in range(5)]
    with tf.io.TFRecordWriter(str(tmp_path / "a.tfrecord"), compression) as writer:
        for number, image in enumerate(images):
            writer.write(example(image=image, label=number % 2, text=[b"cat", b"dog"][number % 2]))

    source = open_source(str(tmp_path))

    assert [source.read(i) for i in range(5)] == [(image, number % 2) for number, image in enumerate(images)]
    assert source.labels == ("cat", "dog")


@pytest.mark.tensorflow
def test_frames_are_what_tensorflow_reads(tmp_path):
    import tensorflow as tf

    records = [b"", b"a", jpeg()]
    write(tmp_path / "a.tfrecord", records)

    read = tf.data.TFRecordDataset(str(tmp_path / "a.tfrecord"))

    assert list(read.as_numpy_iterator()) == records


def test_shards_are_read_in_order_of_name_from_a_folder_or_a_glob(tmp_path):
    for name, number in (("b.tfrecord", 1), ("a.tfrecord", 0), ("c.tfrecord-00000-of-00001", 2)):
        write(tmp_path / name, [example(image=jpeg(number), label=number)])
    write(tmp_path / "other", [example(image=jpeg(3), label=3)])

    folder = open_source(str(tmp_path))
    matching = open_source(str(tmp_path / "[ab]*"))

    assert [folder.identifier(i) for i in range(3)] == ["a.tfrecord:0", "b.tfrecord:0", "c.tfrecord-00000-of-00001:0"]
    assert [matching.read(i)[0] for i in range(2)] == [jpeg(0), jpeg(1)]


def test_labels_without_text_are_named_by_their_number(tmp_path):
    source = opened(tmp_path / "a.tfrecord", [example(image=png(), label=label) for label in (10, 9, -1)])

    assert source.labels == ("-1", "9", "10")
    assert [source.label(i) for i in range(3)] == [2, 1, 0]


def test_a_number_has_the_text_that_another_record_gives_it(tmp_path):
    records = [
        example(image=png(), label=1),
        example(image=png(), label=1, text=b"dog"),
        example(image=png(), text=b"cat"),
    ]

    source = opened(tmp_path / "a.tfrecord", records)

    assert [source.labels[source.label(i)] for i in range(3)] == ["dog", "dog", "cat"]


@pytest.mark.parametrize(
    ("names", "expected"), [((b"x", b"y"), ["x", "y"]), ((b"x", b"x"), ["a.tfrecord:0", "a.tfrecord:1"])]
)
def test_filenames_are_identifiers_where_they_are_distinct(tmp_path, names, expected):
    source = opened(tmp_path / "a.tfrecord", [example(image=png(), label=0, file=name) for name in names])

    assert [source.identifier(i) for i in range(2)] == expected


def test_a_plain_file_that_begins_like_gzip_is_read(tmp_path):
    # Its first record is 0x8b1f bytes long: gzip's two magic bytes.
    padding = 0x8B1F - len(example(image=bytes(0x8B1F - 200), label=0))
    record = example(image=bytes(0x8B1F - 200 + padding), label=0)

    source = opened(tmp_path / "a.tfrecord", [record])

    assert (tmp_path / "a.tfrecord").read_bytes().startswith(b"\x1f\x8b")
    assert len(source) == 1


def test_a_record_that_was_changed_is_a_sample_that_cannot_be_read(tmp_path):
    path = write(tmp_path / "a.tfrecord", [example(image=jpeg(i), label=i) for i in range(2)])
    content = bytearray(path.read_bytes())
    content[content.index(jpeg(1)) + 300] ^= 1
    path.write_bytes(content)

    source = open_source(str(path))

    assert source.read(0) == (jpeg(0), 0)
    with pytest.raises(DecodeError, match=r"a\.tfrecord:1: expected a record that matches its checksum"):
        source.read(1)


GOOD = tfrecord.frame(example(image=b"image", label=0))


def packed(content):
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", mtime=0) as file:
        file.write(content)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "expected records in 1 TFRecord files, found none"),
        (b"path,label\na.jpg,cat\n", "record 0 at byte 0: expected a TFRecord header"),
        (GOOD[:5], r"record 0 at byte 0: expected a whole record, .* \(at 5 bytes\)"),
        (GOOD + GOOD[:-1], "record 1 at byte .*: expected a whole record"),
        (tfrecord.frame(b"no example"), "record 0: expected a tf.train.Example, received other bytes"),
        (tfrecord.frame(b""), "expected one byte string 'image/encoded', found no feature"),
        (tfrecord.frame(example(label=1)), r"expected one byte string 'image/encoded', found \['image/class/label'\]"),
        (tfrecord.frame(example(image=b"x")), "expected 'image/class/label' or 'image/class/text', found neither"),
        (tfrecord.frame(example(image=b"x", label=b"1")), "expected one integer 'image/class/label'"),
        (tfrecord.frame(example(image=b"x", text=b"\xff")), "image/class/text: expected UTF-8 text"),
        (
            tfrecord.frame(example(image=b"x", label=1, text=b"a"))
            + tfrecord.frame(example(image=b"x", label=1, text=b"b")),
            "record 1: expected 'image/class/text' 'a' for class 1 as in other records, received 'b'",
        ),
        (packed(GOOD)[:-9], "expected a whole gzip file"),
        (b"\x1f\x8b\x08" + bytes(40), "expected a whole gzip file"),
    ],
)
def test_a_file_that_is_damaged_or_something_else_is_refused(tmp_path, content, sentence):
    (tmp_path / "a.tfrecord").write_bytes(content)

    with pytest.raises(DataError, match=sentence):
        open_source(str(tmp_path / "a.tfrecord"))
