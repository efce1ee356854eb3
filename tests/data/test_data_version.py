"""The hash under which DVC keeps the data of a run; the files read here are as DVC 3 writes them."""

import pytest

from tfpipe.core.errors import DataError
from tfpipe.data.data_version import data_version, data_versions
from tfpipe.settings import DataConfig

PHOTOS = "43e7c3eb946dd44357749ec2751a8502.dir"
PACKED = "1c0b1a2e5a0f4a3fb5dc0b8d3f5f2c11.dir"
TABLE = "d41d8cd98f00b204e9800998ecf8427e"

LOCK = f"""schema: '2.0'
stages:
  validate:
    cmd: check
  pack:
    cmd: pack
    deps:
    - path: data/photos
      hash: md5
      md5: {PHOTOS}
    outs:
    - path: data/packed
      hash: md5
      md5: {PACKED}
      size: 8
      nfiles: 2
"""


@pytest.fixture
def repository(tmp_path):
    """A folder under DVC: photos and a table by `dvc add`, shards by a stage, and a folder that it does not know."""
    (tmp_path / ".dvc").mkdir()
    for name, content in {
        "data/photos/train/cat/1.png": b"cat",
        "data/photos/train/dog/2.png": b"a dog",
        "data/photos/test/dog/3.png": b"dogs",
        "data/packed/data-00000-of-00001.tfrecord": b"record",
        "data/packed/manifest.json": b"{}",
        "data/other/x/1.png": b"x",
        "table.csv": b"text,label\n",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (tmp_path / "data" / "photos.dvc").write_text(
        f"outs:\n- md5: {PHOTOS}\n  size: 12\n  nfiles: 3\n  hash: md5\n  path: photos\n"
    )
    (tmp_path / "table.csv.dvc").write_text(f"outs:\n- md5: {TABLE}\n  size: 11\n  hash: md5\n  path: table.csv\n")
    (tmp_path / "dvc.lock").write_text(LOCK)
    return tmp_path


@pytest.mark.parametrize(
    ("path", "version"),
    [
        ("data/photos", PHOTOS),
        ("data/photos/train", f"{PHOTOS}/train"),
        ("data/packed", PACKED),
        ("data/packed/data-*", PACKED),
        ("table.csv", TABLE),
        ("data/other", ""),
        ("digits", ""),
        ("shop.images:load", ""),
    ],
)
def test_a_path_has_the_hash_that_dvc_keeps_it_under(repository, monkeypatch, path, version):
    monkeypatch.chdir(repository)

    assert data_version(path) == version
    assert data_version(str(repository / path)) == version


@pytest.mark.parametrize("change", ["a file more", "a file less", "another size"])
def test_data_that_are_no_longer_what_dvc_recorded_say_so(repository, change):
    photo = repository / "data" / "photos" / "train" / "cat" / "1.png"
    {
        "a file more": lambda: photo.with_name("4.png").write_bytes(b""),
        "a file less": photo.unlink,
        "another size": lambda: photo.write_bytes(b"a cat"),
    }[change]()

    assert data_version(str(repository / "data" / "photos")) == f"{PHOTOS}-changed"


def test_every_path_of_a_run_is_told(repository):
    photos = repository / "data" / "photos"
    config = DataConfig(path=str(photos / "train"), validation_path="digits", test_path=str(photos / "test"))

    assert data_versions(config) == {"path": f"{PHOTOS}/train", "test_path": f"{PHOTOS}/test"}


def test_outside_a_repository_of_dvc_there_is_none(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos.dvc").write_text("not read")

    assert data_version(str(tmp_path / "photos")) == ""


@pytest.mark.parametrize("content", ["<<<<<<< HEAD\nstages: {}\n", "- 1\n", "stages: {pack: {outs: [{md5: 1}]}}", ""])
def test_a_lock_file_that_cannot_be_read_is_named(repository, content):
    (repository / "dvc.lock").write_text(content)

    with pytest.raises(DataError, match=r"dvc.lock: expected a file that DVC wrote; "):
        data_version(str(repository / "data" / "packed"))
