"""Image files: a folder with one sub-folder per class, or a manifest with a path and a label a row."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from tfpipe.core.errors import DataError, DecodeError
from tfpipe.data.labels import class_order
from tfpipe.data.tables import Row, read_each, table_rows

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".dib", ".gif", ".webp")
# A folder whose sub-folders are all called so holds splits, not classes.
_SPLIT_NAMES = frozenset({"train", "training", "val", "valid", "validation", "test", "testing"})
_ADVICE = (
    "Of a table without a header name them with data.columns=[path,label]. Texts go with task=text_classification, "
    "tagged words with task=token_classification."
)
_PROGRESS_AFTER_S = 2.0
_MISSING = -1


@dataclass(frozen=True)
class _Row:
    path: str
    identifier: str
    label: str


class FileSource:
    """Image files on disk, read one at a time.

    Args:
        rows: Where each file is, what it is called, and its class.
        names: Class names in order.
        ignored: Files beside the samples that are none, by their suffix; `validate` reports them.
    """

    def __init__(self, rows: Sequence[_Row], names: tuple[str, ...], ignored: Sequence[str] = ()) -> None:
        position = {name: index for index, name in enumerate(names)}
        self.labels = names
        self.ignored = tuple(ignored)
        self._paths = [row.path for row in rows]
        self._identifiers = [row.identifier for row in rows]
        self._classes = np.array([position[row.label] for row in rows], dtype=np.int64)
        self._sizes = [_size_bytes(path) for path in _with_progress(self._paths, "reading file sizes")]

    def __len__(self) -> int:
        return len(self._paths)

    def identifier(self, index: int) -> str:
        return self._identifiers[index]

    def label(self, index: int) -> int:
        return int(self._classes[index])

    def stamp(self, index: int) -> str:
        return str(self._sizes[index])

    def read(self, index: int) -> tuple[bytes, int]:
        path = self._paths[index]
        try:
            with open(path, "rb") as file:
                return file.read(), self.label(index)
        except OSError as error:
            raise DecodeError(f"{path}: expected a readable file; {error.strerror or error}.") from error

    @property
    def num_missing(self) -> int:
        """Files that were not there when the source was opened."""
        return self._sizes.count(_MISSING)


def open_class_folders(
    folder: Path,
    *,
    where: str,
    suffixes: tuple[str, ...] = IMAGE_SUFFIXES,
    what: str = "images",
    advice: str = "Texts go with task=text_classification.",
) -> FileSource:
    """Open a folder with one sub-folder per class.

    Files may lie any depth below the class folder; symbolic links are followed; hidden names are left out, and so are
    files of other suffixes (`FileSource.ignored`). A file that has the suffix but is no image is a corrupt
    sample. `labels` holds every class folder, also an empty one.

    Args:
        folder: An existing folder.
        where: The key or argument that it came from, for messages.
        suffixes: How names of samples end, in lower case.
        what: Samples in the plural, for messages.
        advice: What to do with files of other kinds, as a sentence.

    Raises:
        DataError: There is no class folder, no sample in any, or the sub-folders look like splits.
    """
    classes = sorted(entry.name for entry in os.scandir(folder) if entry.is_dir() and not _is_hidden(entry.name))
    loose = [entry.name for entry in os.scandir(folder) if entry.is_file() and not _is_hidden(entry.name)]
    if not classes:
        found = f"{len(loose)} files and no sub-folder" if loose else "an empty folder"
        raise DataError(f"{where}: expected one sub-folder per class in {str(folder)!r}, found {found}.")
    if {name.lower() for name in classes} <= _SPLIT_NAMES:
        training = next((name for name in classes if name.lower().startswith("train")), classes[0])
        raise DataError(
            f"{where}: expected one sub-folder per class in {str(folder)!r}, found splits: {', '.join(classes)}. "
            f"Set data.path={folder / training} (and data.validation_path, data.test_path) instead."
        )
    rows: list[_Row] = []
    ignored = list(loose)
    files = (file for name in classes for file in _files_below(folder, name))
    for name, relative in _with_progress(files, "listing files"):
        if relative.lower().endswith(suffixes):
            rows.append(_Row(str(folder / relative), printable(relative), printable(name)))
        else:
            ignored.append(relative)
    if not rows:
        kinds = ", ".join(sorted({Path(name).suffix.lower() for name in ignored} - {""}))
        raise DataError(
            f"{where}: expected {what} ({' '.join(suffixes)}) in the {len(classes)} sub-folders of "
            f"{str(folder)!r}, found none{f' but files of other kinds ({kinds}). {advice}' if kinds else '.'}"
        )
    return FileSource(rows, class_order(printable(name) for name in classes), [printable(name) for name in ignored])


def open_table(file: Path, columns: Sequence[str] | None, *, where: str) -> FileSource:
    """Open a manifest: CSV or TSV with the header `path,label`, or JSONL with those keys; other columns are left out.

    Paths are relative to the manifest's folder, or absolute. A file that is missing is a corrupt sample.

    Args:
        file: An existing .csv, .tsv, .jsonl or .ndjson file, UTF-8 with or without byte order mark.
        columns: Names of the columns of a CSV or TSV without a header; `path` and `label` must be among them.
        where: The key or argument that it came from, for messages.

    Raises:
        DataError: Not UTF-8, other columns, rows without path or label, no rows, or none of the files is there.
    """
    rows: list[_Row] = []

    def add(row: Row) -> None:
        path, label = _path_and_label(row)
        rows.append(_Row(str(file.parent / path), path, label))

    found = table_rows(file, columns, needed=("path", "label"), advice=_ADVICE)
    read_each(found, add, file=file, where=where, expected="a path and a label")
    source = FileSource(rows, class_order(row.label for row in rows))
    if source.num_missing == len(source):
        raise DataError(
            f"{where}: expected the files named in {str(file)!r}, found none of {len(source)}; the first would be "
            f"{rows[0].path!r}. Paths are relative to the manifest's folder."
        )
    return source


def files_of(folder: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> list[str]:
    """Paths of the files at any depth below a folder, sorted; links are followed, hidden names left out.

    Args:
        folder: An existing folder.
        suffixes: How their names end, in lower case.
    """
    # "." is no name of a sub-folder: Path takes it out again.
    found = (relative for _, relative in _files_below(folder, "."))
    return [str(folder / relative) for relative in found if relative.lower().endswith(suffixes)]


def _files_below(root: Path, top: str) -> Iterator[tuple[str, str]]:
    """(top, path relative to root) of every file below root/top, sorted."""
    found: list[str] = []
    # Folders on the way down, by device and inode: a symbolic link back up would never end.
    pending: list[tuple[str, frozenset[tuple[int, int]]]] = [(top, frozenset())]
    while pending:
        relative, above = pending.pop()
        status = (root / relative).stat()
        here = (status.st_dev, status.st_ino)
        if here in above:
            continue
        for entry in os.scandir(root / relative):
            if _is_hidden(entry.name):
                continue
            if entry.is_dir():
                pending.append((f"{relative}/{entry.name}", above | {here}))
            # A link that leads nowhere is a sample that cannot be read, not one that is not there.
            elif entry.is_file() or entry.is_symlink():
                found.append(f"{relative}/{entry.name}")
    for name in sorted(found):
        yield top, name


def _is_hidden(name: str) -> bool:
    return name.startswith(".")


def printable(name: str) -> str:
    """A file name as text that can be written: bytes that are not UTF-8 as backslash escapes."""
    # File names need not be UTF-8; identifiers and labels go into JSON and must be.
    return os.fsencode(name).decode(errors="backslashreplace")


def _size_bytes(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return _MISSING


def _with_progress(items: Any, what: str) -> Any:
    return tqdm(items, desc=what, unit=" files", delay=_PROGRESS_AFTER_S, disable=None, leave=False)


def _path_and_label(row: Row) -> tuple[str, str]:
    path, label = row.values["path"], row.values["label"]
    if isinstance(label, int) and not isinstance(label, bool):
        label = str(label)
    for name, value in (("path", path), ("label", label)):
        if not isinstance(value, str) or not value.strip():
            raise ValueError(f"expected a {name}, received {value!r}.")
    return path, label.strip()
