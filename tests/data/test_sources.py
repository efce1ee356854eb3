import json
import os
from pathlib import Path

import numpy as np
import pytest

from tests.image_files import jpeg, png, write_class_folders
from tfpipe.core.errors import DataError, DecodeError
from tfpipe.data.labels import class_order
from tfpipe.data.sources import Relabelled, Subset, open_source, to_pixels


def contents(source):
    """{identifier: (class name, bytes)} of all samples."""
    samples = ((source.identifier(i), *source.read(i)) for i in range(len(source)))
    return {identifier: (source.labels[label], sample) for identifier, sample, label in samples}


def test_each_subfolder_is_a_class_whatever_lies_how_deep(tmp_path):
    deep = tmp_path / "cat" / "2024" / "may"
    deep.mkdir(parents=True)
    (deep / "a.JPG").write_bytes(jpeg(1))
    (tmp_path / "cat" / "b.png").write_bytes(png(2))
    (tmp_path / "dog").mkdir()
    (tmp_path / "dog" / "c.webp").write_bytes(b"anything")

    source = open_source(str(tmp_path))

    assert source.labels == ("cat", "dog")
    assert contents(source) == {
        "cat/2024/may/a.JPG": ("cat", jpeg(1)),
        "cat/b.png": ("cat", png(2)),
        "dog/c.webp": ("dog", b"anything"),
    }


def test_hidden_files_and_other_suffixes_are_no_samples(tmp_path):
    write_class_folders(tmp_path, {"cat": 1, "dog": 1})
    (tmp_path / ".cache").mkdir()
    (tmp_path / "cat" / ".thumbnail.jpg").write_bytes(jpeg())
    (tmp_path / "cat" / "notes.txt").write_text("notes")
    (tmp_path / "README").write_text("read me")

    source = open_source(str(tmp_path))

    assert len(source) == 2
    assert sorted(source.ignored) == ["README", "cat/notes.txt"]


def test_a_text_file_named_jpg_is_a_sample_that_cannot_be_decoded(tmp_path):
    write_class_folders(tmp_path, {"cat": 1, "dog": 1})
    (tmp_path / "cat" / "zz.jpg").write_text("text")

    source = open_source(str(tmp_path))
    sample, _ = source.read(1)

    with pytest.raises(DecodeError, match="begin with b'text'"):
        to_pixels(sample)


def test_links_are_followed_and_a_loop_of_them_ends(tmp_path):
    elsewhere = write_class_folders(tmp_path / "elsewhere", {"x": 2})
    data = write_class_folders(tmp_path / "data", {"cat": 1, "dog": 1})
    (data / "cat" / "linked").symlink_to(elsewhere / "x")
    (data / "cat" / "again").symlink_to(data / "cat")

    source = open_source(str(data))

    assert [source.identifier(i) for i in range(len(source))] == [
        "cat/000.jpg",
        "cat/linked/000.jpg",
        "cat/linked/001.jpg",
        "dog/000.jpg",
    ]


def test_a_link_that_leads_nowhere_is_a_sample_that_cannot_be_read(tmp_path):
    write_class_folders(tmp_path, {"cat": 1, "dog": 1})
    (tmp_path / "cat" / "zz.jpg").symlink_to(tmp_path / "nowhere")

    source = open_source(str(tmp_path))

    with pytest.raises(DecodeError, match=r"zz\.jpg: expected a readable file; No such file"):
        source.read(1)


@pytest.mark.skipif(os.name != "posix", reason="file names are bytes on POSIX alone")
def test_names_that_are_not_utf8_have_printable_identifiers(tmp_path):
    write_class_folders(tmp_path, {"cat": 1, "dog": 1})
    odd = os.fsencode(tmp_path / "cat") + b"/caf\xe9.jpg"
    Path(os.fsdecode(odd)).write_bytes(jpeg())

    source = open_source(str(tmp_path))

    assert source.identifier(1) == "cat/caf\\xe9.jpg"
    assert source.read(1)[0] == jpeg()


def test_class_names_that_are_all_integers_are_ordered_by_number(tmp_path):
    write_class_folders(tmp_path, {"10": 1, "9": 1, "-1": 1})

    assert open_source(str(tmp_path)).labels == ("-1", "9", "10")
    assert class_order(["b", "a", "10"]) == ("10", "a", "b")


@pytest.mark.parametrize(
    ("layout", "sentence"),
    [
        ([], "expected one sub-folder per class in .* found an empty folder"),
        (["a.jpg", "b.jpg"], "found 2 files and no sub-folder"),
        (["cat/", "dog/"], "expected images .* in the 2 sub-folders of .*, found none"),
        (["train/cat/a.jpg", "val/cat/b.jpg"], r"found splits: train, val. Set data.path=.*/train"),
    ],
)
def test_a_folder_that_is_no_data_set_is_refused(tmp_path, layout, sentence):
    for name in layout:
        place = tmp_path / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.mkdir() if name.endswith("/") else place.write_bytes(jpeg())

    with pytest.raises(DataError, match=sentence):
        open_source(str(tmp_path))


def test_a_missing_path_names_the_nearest_one(tmp_path):
    write_class_folders(tmp_path / "photos", {"cat": 1, "dog": 1})

    with pytest.raises(DataError, match=r"data\.path: .* nothing at '.*/fotos'. Did you mean '.*/photos'\?"):
        open_source(str(tmp_path / "fotos"))


def test_a_missing_path_without_a_like_says_where_it_ends(tmp_path):
    with pytest.raises(DataError, match=r"'.*/nothing' does not exist"):
        open_source(str(tmp_path / "nothing" / "below"))


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "data.zip").write_bytes(b"PK")

    with pytest.raises(DataError, match=r"expected a folder, a manifest \(.csv, .tsv, .jsonl, .ndjson\) or a TFRecord"):
        open_source(str(tmp_path / "data.zip"))


MANIFESTS = {
    "plain.csv": "path,label\ncat/000.jpg,cat\ndog/000.jpg,dog\n",
    "byte order mark.csv": "\ufeffpath,label\ncat/000.jpg,cat\ndog/000.jpg,dog\n",
    "other columns.csv": 'weight,label,path\n1,cat,cat/000.jpg\n,"dog",dog/000.jpg\n',
    "quoted, blank lines, CRLF.csv": 'path,label\r\n\r\n"cat/000.jpg","cat"\r\ndog/000.jpg, dog \r\n\r\n',
    "tabs.tsv": "path\tlabel\ncat/000.jpg\tcat\ndog/000.jpg\tdog\n",
    "lines.jsonl": '{"path": "cat/000.jpg", "label": "cat"}\n\n{"label": "dog", "path": "dog/000.jpg", "extra": 1}\n',
    "lines.ndjson": '{"path": "cat/000.jpg", "label": "cat"}\n{"path": "dog/000.jpg", "label": "dog"}',
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_gives_the_files_it_names(tmp_path, name):
    write_class_folders(tmp_path, {"cat": 1, "dog": 1})
    (tmp_path / name).write_text(MANIFESTS[name], encoding="utf-8", newline="")

    source = open_source(str(tmp_path / name))

    assert source.labels == ("cat", "dog")
    assert contents(source) == {"cat/000.jpg": ("cat", jpeg(0, 12, 16)), "dog/000.jpg": ("dog", jpeg(1, 12, 16))}


def test_a_table_without_header_takes_its_columns_from_the_config(tmp_path):
    write_class_folders(tmp_path, {"cat": 1, "dog": 1})
    (tmp_path / "m.csv").write_text("1,cat/000.jpg,cat\n2,dog/000.jpg,dog\n")

    source = open_source(str(tmp_path / "m.csv"), columns=["number", "path", "label"])

    assert [source.identifier(i) for i in range(2)] == ["cat/000.jpg", "dog/000.jpg"]


def test_integer_labels_of_json_are_class_names_in_order_of_number(tmp_path):
    write_class_folders(tmp_path, {"cat": 3})
    rows = [{"path": f"cat/{i:03d}.jpg", "label": label} for i, label in enumerate([10, 9, "9"])]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))

    source = open_source(str(tmp_path / "m.jsonl"))

    assert source.labels == ("9", "10")
    assert [source.label(i) for i in range(3)] == [1, 0, 0]


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        (
            "m.csv",
            "file,class\na.jpg,cat\n",
            "expected the columns 'path' and 'label', received 'file', 'class'. .*data.columns",
        ),
        ("m.csv", "path;label\na.jpg;cat\n", "received 'path;label'. Its columns are parted by semicolons: write it "),
        ("m.csv", "path\tlabel\na.jpg\tcat\n", "Its columns are parted by tabs: name it .tsv."),
        ("m.tsv", "path,label\na.jpg,cat\n", "Its columns are parted by commas: name it .csv."),
        ("m.csv", "text,label\nhello,cat\n", "received 'text', 'label'. .* Texts go with task=text_classification"),
        ("m.csv", "", "expected rows in .*, found none"),
        ("m.csv", "path,label\n", "expected rows in .*, found none"),
        ("m.csv", "path,label\ncat/000.jpg,cat\ndog/000.jpg\n", "1 differ\n.*line 3: expected 2 fields, received 1"),
        ("m.csv", "path,label\ncat/000.jpg,\n", "line 2: expected a label, received ''"),
        ("m.csv", 'path,label\n"cat/000.jpg,cat\n', "expected CSV; unexpected end of data"),
        ("m.csv", "path,label\nno/a.jpg,cat\nno/b.jpg,dog\n", "found none of 2; the first would be '.*/no/a.jpg'"),
        ("m.jsonl", "{}\n", "line 1: expected the keys 'path' and 'label', received none"),
        ("m.jsonl", '{"path": "a.jpg", "label": null}\n', "line 1: expected a label, received None"),
        ("m.jsonl", "path,label\n", "line 1: expected one JSON object"),
    ],
)
def test_a_manifest_with_a_mistake_is_refused(tmp_path, name, text, sentence):
    write_class_folders(tmp_path, {"cat": 1, "dog": 1})
    (tmp_path / name).write_text(text)

    with pytest.raises(DataError, match=sentence):
        open_source(str(tmp_path / name))


def test_bytes_that_are_not_utf8_are_refused(tmp_path):
    (tmp_path / "m.csv").write_bytes(b"path,label\ncaf\xe9.jpg,cat\n")

    with pytest.raises(DataError, match="expected UTF-8 text; byte 14 is not"):
        open_source(str(tmp_path / "m.csv"))


def test_a_header_beside_configured_columns_is_refused(tmp_path):
    (tmp_path / "m.csv").write_text("path,label\na.jpg,cat\n")

    with pytest.raises(DataError, match=r"expected no header beside data\.columns"):
        open_source(str(tmp_path / "m.csv"), columns=["path", "label"])


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        (["path"], "the columns 'path' and 'label', received 'path'"),
        (["path", "label", "path"], "distinct columns, received 'path', 'label', 'path'"),
        (["file", "class"], "the columns 'path' and 'label', received 'file', 'class'"),
    ],
)
def test_columns_without_path_and_label_are_refused(tmp_path, columns, sentence):
    (tmp_path / "m.csv").write_text("a.jpg,cat\n")

    with pytest.raises(DataError, match=rf"data\.columns: expected {sentence}"):
        open_source(str(tmp_path / "m.csv"), columns=columns)


def test_a_file_that_a_manifest_names_in_vain_is_a_sample_that_cannot_be_read(tmp_path):
    write_class_folders(tmp_path, {"cat": 1})
    (tmp_path / "m.csv").write_text("path,label\ncat/000.jpg,cat\ndog/000.jpg,dog\n")

    source = open_source(str(tmp_path / "m.csv"))

    assert len(source) == 2
    with pytest.raises(DecodeError, match=r"dog/000\.jpg: expected a readable file"):
        source.read(1)


def test_digits_are_rgb_on_the_full_scale_with_names_in_counting_order():
    source = open_source("digits")
    images = [source.read(i) for i in range(len(source))]

    assert len(source) == 1797
    assert source.labels[:3] == ("zero", "one", "two")
    assert {image.shape for image, _ in images} == {(8, 8, 3)}
    assert max(image.max() for image, _ in images) == 255
    assert source.labels[source.label(0)] == "zero"


def test_pixels_come_from_files_and_arrays_alike():
    rgb = to_pixels(png(3))

    np.testing.assert_array_equal(to_pixels(rgb), rgb)
    np.testing.assert_array_equal(to_pixels(np.dstack([rgb, rgb[..., :1]])), rgb)
    np.testing.assert_array_equal(to_pixels(rgb[..., 0]), np.repeat(rgb[..., :1], 3, axis=2))
    np.testing.assert_array_equal(to_pixels(rgb[..., :1]), np.repeat(rgb[..., :1], 3, axis=2))


@pytest.mark.parametrize(
    ("sample", "sentence"),
    [
        (
            np.zeros((4, 4, 3), np.float32),
            r"expected uint8 of shape \(H, W, 3\), received float32 of shape \(4, 4, 3\)",
        ),
        (np.zeros((1, 4, 4, 3), np.uint8), r"received uint8 of shape \(1, 4, 4, 3\)"),
        (np.zeros((4, 4, 2), np.uint8), r"received uint8 of shape \(4, 4, 2\)"),
        (np.zeros((0, 4, 3), np.uint8), "expected at least one pixel"),
        (np.zeros((5, 5, 3), np.uint8), "expected at most 24 pixels, received 5 x 5"),
        ("cat.jpg", "expected bytes or a NumPy array, received str"),
    ],
)
def test_samples_of_another_kind_are_refused(sample, sentence):
    with pytest.raises(DecodeError, match=sentence):
        to_pixels(sample, max_pixels=24)


def test_a_subset_and_a_relabelled_source_tell_of_the_same_samples(tmp_path):
    write_class_folders(tmp_path, {"cat": 2, "dog": 1})
    whole = open_source(str(tmp_path))

    part = Relabelled(Subset(whole, [2, 0]), ("bird", "dog", "cat"))

    assert len(part) == 2
    assert [part.identifier(i) for i in range(2)] == ["dog/000.jpg", "cat/000.jpg"]
    assert [part.label(i) for i in range(2)] == [1, 2]
    assert part.read(0) == (whole.read(2)[0], 1)
    assert part.stamp(1) == whole.stamp(0)


@pytest.mark.parametrize("path", ["", " ", "*.tfrecord", "/dev/null"])
def test_a_path_that_leads_to_no_data_is_refused(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.tfrecord").mkdir()

    with pytest.raises(DataError, match=r"data\.path: expected a "):
        open_source(path)
