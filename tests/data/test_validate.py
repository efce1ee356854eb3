import io
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.image_files import blank_png, encoded, jpeg, picture, with_orientation, write_class_folders
from tfpipe.core.errors import ConfigError, DataError
from tfpipe.data import tfrecord
from tfpipe.data.findings import out_of_balance
from tfpipe.data.validate import validate


@pytest.fixture
def data(tmp_path):
    return write_class_folders(tmp_path / "data", {"cat": 4, "dog": 4})


@pytest.fixture
def check(data, tmp_path):
    """Validates `data`; gives {kind: [identifiers]}, and leaves the report in tmp_path/report."""

    def run(**options):
        report = validate(str(data), output_dir=tmp_path / "report", **options)
        return {
            finding.kind: [sample.identifier for group in finding.groups for sample in group]
            for finding in report.findings
        }

    return run


def test_good_data_pass(check, data, tmp_path):
    report = validate(str(data), output_dir=tmp_path / "report")

    assert report.passed
    assert report.findings == ()


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("empty", b""),
        ("not_an_image", b"these are my notes"),
        ("damaged", jpeg()[:400]),
        ("damaged", encoded(picture(), "PNG")[:400]),
        ("too_large", blank_png(20_000, 20_000)),
    ],
)
def test_a_file_that_cannot_be_used_is_found(check, data, kind, content):
    (data / "cat" / "bad.jpg").write_bytes(content)

    assert check() == {kind: ["cat/bad.jpg"]}


def test_a_file_that_is_not_there_is_found(check, data):
    (data / "cat" / "bad.jpg").symlink_to(data / "nowhere")

    assert check() == {"missing": ["cat/bad.jpg"]}


def test_small_images_are_found(check, data):
    (data / "cat" / "small.png").write_bytes(encoded(picture(30, 7), "PNG"))

    assert check(min_image_size=8) == {"too_small": ["cat/small.png"]}
    assert check(min_image_size=7) == {}


def test_a_file_twice_is_a_duplicate(check, data):
    shutil.copy(data / "cat" / "000.jpg", data / "cat" / "copy.jpg")

    assert check() == {"duplicate": ["cat/000.jpg", "cat/copy.jpg"]}


def test_a_picture_saved_again_without_loss_is_a_duplicate(check, data):
    with Image.open(data / "cat" / "000.jpg") as image:
        image.save(data / "cat" / "copy.png")

    assert check() == {"duplicate": ["cat/000.jpg", "cat/copy.png"]}


def test_a_picture_turned_by_exif_alone_is_a_duplicate(check, data):
    upright = picture(10, 14, seed=50)
    (data / "cat" / "one.png").write_bytes(encoded(upright, "PNG"))
    (data / "cat" / "two.png").write_bytes(with_orientation(np.rot90(upright), 6, "PNG"))

    assert check(balance_tolerance=1.0) == {"duplicate": ["cat/one.png", "cat/two.png"]}


def test_a_picture_with_two_labels_is_a_conflict(check, data):
    shutil.copy(data / "cat" / "000.jpg", data / "dog" / "copy.jpg")

    assert check() == {"conflicting_labels": ["cat/000.jpg", "dog/copy.jpg"]}


def test_a_picture_in_training_and_validation_is_a_leak(check, data, tmp_path):
    validation = write_class_folders(tmp_path / "validation", {"cat": 2, "dog": 2}, first_seed=100)
    shutil.copy(data / "cat" / "001.jpg", validation / "cat" / "leaked.jpg")

    assert check(validation_path=str(validation)) == {"leak": ["cat/001.jpg", "cat/leaked.jpg"]}


def test_a_picture_in_training_and_test_is_a_leak(check, data, tmp_path):
    test = write_class_folders(tmp_path / "test", {"cat": 1, "dog": 1}, first_seed=100)
    shutil.copy(data / "dog" / "001.jpg", test / "dog" / "leaked.jpg")

    assert check(test_path=str(test)) == {"leak": ["dog/001.jpg", "dog/leaked.jpg"]}


def test_copies_across_the_split_that_training_would_make_are_leaks(check, data):
    for number in range(12):
        shutil.copy(data / "cat" / "000.jpg", data / "cat" / f"copy{number}.jpg")

    found = check(validation_fraction=0.5, balance_tolerance=10.0)

    assert len(found["leak"]) == 13


def test_a_class_that_training_lacks_is_found(check, tmp_path):
    validation = write_class_folders(tmp_path / "validation", {"cat": 1, "dog": 1, "wolf": 1}, first_seed=100)

    assert check(validation_path=str(validation)) == {"unknown_label": ["wolf/000.jpg"]}


def test_a_class_without_validation_samples_is_a_warning(check, tmp_path):
    validation = write_class_folders(tmp_path / "validation", {"cat": 1}, first_seed=100)

    assert check(validation_path=str(validation)) == {"unscored_class": []}


def test_one_class_only_is_found(check, data):
    shutil.rmtree(data / "dog")

    assert check() == {"one_class": []}


def test_a_class_folder_without_images_is_found(check, data):
    (data / "wolf").mkdir()

    assert check() == {"empty_class": []}


def test_a_class_too_small_to_split_is_found(check, data):
    write_class_folders(data, {"wolf": 1}, first_seed=100)

    assert set(check(validation_fraction=0.2)) == {"cannot_split", "imbalance"}


def test_files_that_are_left_out_are_named(check, data, tmp_path):
    (data / "cat" / "photo.tiff").write_bytes(b"II*\0")

    assert check() == {"ignored_files": []}
    assert json.loads((tmp_path / "report" / "validation.json").read_text())["ignored_files"] == ["cat/photo.tiff"]


@pytest.mark.parametrize(
    ("counts", "tolerance", "off"),
    [
        ({"a": 100, "b": 100}, 0.0, []),
        ({"a": 120, "b": 80}, 0.2, []),
        ({"a": 121, "b": 79}, 0.2, ["a", "b"]),
        ({"a": 10, "b": 10, "c": 40}, 0.5, ["c"]),
        ({"a": 1, "b": 3}, 0.4, ["a", "b"]),
    ],
)
def test_balance_is_measured_against_the_mean_class_size(counts, tolerance, off):
    assert out_of_balance(counts, tolerance) == off


def test_imbalance_is_a_warning_with_its_numbers(data, tmp_path):
    write_class_folders(data, {"wolf": 1}, first_seed=100)

    report = validate(str(data), output_dir=tmp_path / "report")

    assert report.passed
    assert report.warnings[0].message == (
        "Classes further than 20% from the mean of 3 samples: wolf 1 (-67%), cat 4 (+33%), dog 4 (+33%)."
    )


def test_a_damaged_record_of_a_shard_is_found(tmp_path):
    records = [
        tfrecord.frame(tfrecord.serialize_example({"image/encoded": jpeg(i), "image/class/label": i % 2}))
        for i in range(4)
    ]
    records[2] = records[2].replace(b"\xff\xd9", b"\xff\xd8")
    (tmp_path / "a.tfrecord").write_bytes(b"".join(records))

    report = validate(str(tmp_path / "a.tfrecord"), output_dir=tmp_path / "report")

    assert [(f.kind, f.groups[0][0].identifier) for f in report.errors] == [("missing", "a.tfrecord:2")]


def test_validation_json_tells_all_that_was_found(check, data, tmp_path):
    (data / "cat" / "bad.jpg").write_text("text")
    (data / "dog" / "turned.png").write_bytes(with_orientation(picture(10, 14), 6, "PNG"))
    check()

    content = json.loads((tmp_path / "report" / "validation.json").read_text())

    assert content["passed"] is False
    assert (content["num_errors"], content["num_warnings"]) == (1, 0)
    assert content["labels"] == ["cat", "dog"]
    assert content["splits"] == {
        "training": {
            "samples": 10,
            "readable": 9,
            "classes": {"cat": 5, "dog": 5},
            "formats": {"JPEG": 8, "PNG": 1},
            "modes": {"RGB": 9},
            "turned_by_exif": 1,
            "height": {"min": 12, "median": 12.0, "max": 14},
            "width": {"min": 10, "median": 16.0, "max": 16},
        }
    }
    (finding,) = content["findings"]
    assert finding["kind"] == "not_an_image"
    assert finding["severity"] == "error"
    assert finding["samples"] == [
        {
            "split": "training",
            "id": "cat/bad.jpg",
            "label": "cat",
            "detail": "image: expected a JPEG, PNG, BMP, GIF or WebP file, received 4 bytes that begin with b'text'.",
            "group": 0,
        }
    ]


def page_of(tmp_path):
    return (tmp_path / "report" / "validation.html").read_text(encoding="utf-8")


def test_the_page_shows_what_is_wrong_and_needs_no_other_file(check, data, tmp_path):
    shutil.copy(data / "cat" / "000.jpg", data / "dog" / "copy.jpg")
    check()

    page = page_of(tmp_path)

    assert "FAILED" in page
    assert page.count('src="data:image/jpeg;base64,') == 2
    assert "<svg" in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert "url(" not in page


def test_the_page_shows_the_part_of_a_truncated_picture_that_is_there(check, data, tmp_path):
    content = jpeg(5, 200, 200, quality=95)
    (data / "cat" / "cut.jpg").write_bytes(content[: len(content) // 2])
    check()

    (uri,) = re.findall(r"data:image/jpeg;base64,([^\"]+)", page_of(tmp_path))
    import base64

    thumbnail = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri))))
    assert thumbnail[:20].mean() > 20
    assert thumbnail[-20:].mean() < 5


def test_text_from_the_data_cannot_become_markup(check, data, tmp_path):
    (data / "cat" / "<script>alert(1)<").mkdir()
    (data / "cat" / "<script>alert(1)<" / "bad.jpg").write_text("<b>bold</b>")
    check()

    page = page_of(tmp_path)

    assert "<script>" not in page
    assert "<b>bold" not in page
    assert "&lt;b&gt;bold" in page


def test_many_findings_are_counted_and_some_are_shown(check, data, tmp_path):
    for number in range(40):
        (data / "cat" / f"bad{number:02d}.jpg").write_text(f"text {number}")

    assert len(check(balance_tolerance=10.0)["not_an_image"]) == 40

    assert page_of(tmp_path).count("<figure>") == 24
    assert "24 of 40 shown; validation.json lists all." in page_of(tmp_path)


def test_the_result_does_not_depend_on_the_number_of_threads(data, tmp_path):
    for number in range(80):
        (data / "cat" / f"more{number}.jpg").write_bytes(jpeg(1000 + number))

    reports = [validate(str(data), output_dir=tmp_path / str(n), threads=n) for n in (1, 7)]

    assert reports[0].data == reports[1].data


def test_a_report_replaces_the_one_before(check, data):
    (data / "cat" / "bad.jpg").write_text("text")
    assert check()
    (data / "cat" / "bad.jpg").unlink()

    assert check() == {}


def test_nothing_is_written_where_there_are_no_data(tmp_path):
    with pytest.raises(DataError, match="nothing at"):
        validate(str(tmp_path / "absent"), output_dir=tmp_path / "report")

    assert list(tmp_path.iterdir()) == []


def test_a_limit_out_of_range_is_refused(data, tmp_path):
    with pytest.raises(ConfigError, match=r"data\.balance_tolerance: expected .*, received -1"):
        validate(str(data), output_dir=tmp_path / "report", balance_tolerance=-1.0)
