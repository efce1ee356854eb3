import os
from pathlib import Path

import pytest

from tests.full_disk import files_of_at_most
from tfpipe.core import atomic
from tfpipe.core.errors import ConfigError


def test_a_file_appears_whole_and_replaces_the_old_one(tmp_path):
    target = tmp_path / "new" / "file.txt"

    atomic.write_file(target, "one")
    atomic.write_file(target, b"two")

    assert target.read_text() == "two"
    assert [path.name for path in target.parent.iterdir()] == ["file.txt"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    target = tmp_path / "file.txt"
    atomic.write_file(target, "old")

    with pytest.raises(TypeError):
        atomic.write_file(target, 5)  # type: ignore[arg-type]

    assert target.read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["file.txt"]


def test_a_folder_that_can_be_written_is_made_and_left_empty(tmp_path):
    for _ in range(2):
        atomic.writable_folder(tmp_path / "new" / "folder", where="--output")

    assert list((tmp_path / "new" / "folder").iterdir()) == []


@pytest.mark.parametrize("place", ["file", "file/below", "/proc", "/proc/new"])
def test_a_folder_that_cannot_be_written_is_refused_by_the_name_of_its_setting(tmp_path, place):
    (tmp_path / "file").write_text("mine")

    with pytest.raises(ConfigError, match=r"^--output: expected a folder that can be written, but '.*': \w.*\.$"):
        atomic.writable_folder(tmp_path / place, where="--output")


def write_in_a_folder(target):
    with atomic.staged_folder(target) as staging:
        (staging / "file").write_bytes(bytes(100_000))


@pytest.mark.parametrize("write", [lambda target: atomic.write_file(target, bytes(100_000)), write_in_a_folder])
def test_a_full_disk_is_told_with_what_was_being_written(tmp_path, write):
    with pytest.raises(OSError) as failed, files_of_at_most(1000):
        write(tmp_path / "made")

    assert failed.value.filename == str(tmp_path / "made")
    assert list(tmp_path.iterdir()) == []


def test_a_staged_folder_appears_on_success_only(tmp_path):
    target = tmp_path / "made"

    def fail_half_way():
        with atomic.staged_folder(target) as staging:
            (staging / "half").write_text("x")
            raise KeyError

    with pytest.raises(KeyError):
        fail_half_way()

    assert list(tmp_path.iterdir()) == []

    with atomic.staged_folder(target) as staging:
        (staging / "whole").write_text("x")

    assert (target / "whole").read_text() == "x"
    assert list(tmp_path.iterdir()) == [target]


def test_a_staged_folder_replaces_another_only_when_told_to(tmp_path):
    target = tmp_path / "made"
    target.mkdir()
    (target / "old").touch()

    with pytest.raises(FileExistsError, match="found an existing one"), atomic.staged_folder(target):
        pass
    with atomic.staged_folder(target, replace=True) as staging:
        (staging / "new").touch()

    assert [path.name for path in target.iterdir()] == ["new"]
    assert list(tmp_path.iterdir()) == [target]


def test_others_may_read_what_was_written(tmp_path):
    mask = os.umask(0o022)
    try:
        atomic.write_file(tmp_path / "file", "x")
        with atomic.staged_folder(tmp_path / "folder"):
            pass
    finally:
        os.umask(mask)

    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644
    assert (tmp_path / "folder").stat().st_mode & 0o777 == 0o755


def stage(path: Path) -> None:
    with atomic.staged_folder(path):
        pass


@pytest.mark.parametrize("write", [lambda path: atomic.write_file(path, "x"), stage])
def test_a_folder_that_takes_no_files_is_told_by_the_name_that_was_asked_for(write):
    # Nobody makes files there, the superuser neither.
    path = Path("/proc/tfpipe")

    with pytest.raises(OSError, match="tfpipe") as caught:
        write(path)

    assert caught.value.filename == str(path)
