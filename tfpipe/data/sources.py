"""Where samples come from: one small interface, and the one place that opens every form of `data.path`."""

import difflib
import glob
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np

from tfpipe.config import parse_config
from tfpipe.core.errors import DataError, DecodeError
from tfpipe.data.arrays import open_digits, rgb_pixels
from tfpipe.data.files import open_class_folders, open_table
from tfpipe.data.functions import open_function
from tfpipe.data.shards import is_shard_name, open_shards
from tfpipe.data.tables import TABLE_SUFFIXES
from tfpipe.data.text import TextSource
from tfpipe.decode import MAX_IMAGE_PIXELS, decode_image
from tfpipe.settings import Config

# An encoded image file, or uint8 (height, width, 3).
Sample: TypeAlias = "bytes | np.ndarray"

# The data sets that come with tfpipe: images, and texts.
DIGITS, MESSAGES = "digits", "messages"
_FUNCTION = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


class Source(Protocol):
    """Labelled samples by index. Opening one reads names, labels and sizes, never the images.

    Attributes:
        labels: Class names; `label(i)` is an index into them.
    """

    labels: tuple[str, ...]

    def __len__(self) -> int: ...

    def identifier(self, index: int) -> str:
        """Name of a sample for people, logs and the validation index; the same on every machine and worker."""
        ...

    def label(self, index: int) -> int:
        """Class of a sample, without reading it."""
        ...

    def stamp(self, index: int) -> str:
        """Cheap evidence of a sample's content for the fingerprint: a file's size, a record's CRC, an array's hash."""
        ...

    def read(self, index: int) -> tuple[Any, int]:
        """One sample (a `Sample`; of a `TextSource` a text, or one with a tag for each word) and its class.

        Raises:
            DecodeError: The file is missing or unreadable, or the record damaged.
        """
        ...


class Subset:
    """Some samples of a source, in the order of `indices`.

    Args:
        source: Where the samples are.
        indices: (n,) int, positions in `source`.
    """

    def __init__(self, source: Source, indices: Sequence[int] | np.ndarray) -> None:
        self.labels = source.labels
        self._source = source
        self._indices = np.asarray(indices, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._indices)

    def identifier(self, index: int) -> str:
        return self._source.identifier(int(self._indices[index]))

    def label(self, index: int) -> int:
        return self._source.label(int(self._indices[index]))

    def stamp(self, index: int) -> str:
        return self._source.stamp(int(self._indices[index]))

    def read(self, index: int) -> tuple[Any, int]:
        return self._source.read(int(self._indices[index]))


def subset(source: Source, indices: Sequence[int] | np.ndarray) -> Source:
    """Some samples of a source, in the order of `indices`; of a `TextSource` another one."""
    return source.take(indices) if isinstance(source, TextSource) else Subset(source, indices)


class Relabelled:
    """A source whose class indices count in another source's classes.

    Args:
        source: Where the samples are.
        labels: Class names to count in; a superset of the classes that occur in `source`.
    """

    def __init__(self, source: Source, labels: tuple[str, ...]) -> None:
        self.labels = labels
        self._source = source
        position = {name: index for index, name in enumerate(labels)}
        # -1 for a class that the other source lacks; the caller has made sure that no sample is of it.
        self._index_of = [position.get(name, -1) for name in source.labels]

    def __len__(self) -> int:
        return len(self._source)

    def identifier(self, index: int) -> str:
        return self._source.identifier(index)

    def label(self, index: int) -> int:
        return self._index_of[self._source.label(index)]

    def stamp(self, index: int) -> str:
        return self._source.stamp(index)

    def read(self, index: int) -> tuple[Any, int]:
        sample, label = self._source.read(index)
        return sample, self._index_of[label]


def to_pixels(sample: Sample, max_pixels: int = MAX_IMAGE_PIXELS) -> np.ndarray:
    """Bring what a source gives to upright 8-bit RGB.

    Args:
        sample: An encoded image file, or a uint8 array: (H, W, 3), grey (H, W) or (H, W, 1), or (H, W, 4), whose alpha
            is dropped.
        max_pixels: Larger images are refused.

    Returns:
        (H, W, 3) uint8.

    Raises:
        DecodeError: Not an image, damaged, too large, or an array of another kind.
    """
    if isinstance(sample, bytes):
        return decode_image(sample, max_pixels=max_pixels)
    pixels = rgb_pixels(sample)
    if pixels.shape[0] * pixels.shape[1] > max_pixels:
        raise DecodeError(
            f"image: expected at most {max_pixels} pixels, received {pixels.shape[1]} x {pixels.shape[0]}."
        )
    return pixels


def open_source(
    path: str,
    *,
    columns: Sequence[str] | None = None,
    split: str = "train",
    config: Config | None = None,
    where: str = "data.path",
) -> Source | None:
    """Open one of the forms of `data.path`.

    Args:
        path: `digits`; a folder with one sub-folder per class; a CSV, TSV or JSONL manifest; TFRecord shards (folder,
            file or glob); or `package.module:function`.
        columns: Column names of a manifest without a header.
        split: "train", "validation" or "test"; what a function is asked for.
        config: The run, for a function; None means one with `data.path` alone.
        where: The key or argument that `path` came from, for messages.

    Returns:
        The source; None only where a function says that it has no such split.

    Raises:
        DataError: Nothing is there, it holds no samples, or it is of no known form.
    """
    if not path.strip():
        raise DataError(f"{where}: expected a data set, received {path!r}.")
    if path == DIGITS:
        return open_digits()
    if path == MESSAGES:
        raise DataError(
            f"{where}: expected images, received {path!r}, which are texts. Set task=text_classification; a folder of "
            f"that name is './{path}'."
        )
    if is_function(path):
        return open_function(path, split, config or parse_config({"data": {"path": path}}, where=where), where=where)
    place, shards = find_shards(path, where=where)
    if shards:
        return open_shards(shards, where=where, whole_folder=place.is_dir())
    if place.is_dir():
        return open_class_folders(place, where=where)
    return _open_file(place, columns, where)


def find_shards(path: str, *, where: str) -> tuple[Path, list[Path]]:
    """What `data.path` names on disk, and the TFRecord shards there: in a folder, by a glob, or the file itself.

    Args:
        path: A path or a glob.
        where: The key or argument that it came from, for messages.

    Returns:
        (the path, the shards in order); without shards it is an existing folder or file of another form.

    Raises:
        DataError: Nothing is there.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        return place, sorted(entry for entry in place.iterdir() if is_shard_name(entry.name) and entry.is_file())
    if place.exists():
        return place, [place] if is_shard_name(place.name) and place.is_file() else []
    if glob.has_magic(path):
        # Path.glob cannot start from a pattern that may be absolute.
        matches = sorted(Path(match) for match in glob.glob(str(place), recursive=True))  # noqa: PTH207
        shards = [match for match in matches if match.is_file()]
        if shards:
            return place, shards
    raise DataError(f"{where}: expected a data set, found nothing at {path!r}.{_nearest(place)}")


def is_function(path: str) -> bool:
    """Whether `data.path` names a function, `package.module:function`, rather than a place on disk."""
    return _FUNCTION.fullmatch(path) is not None and not Path(path).exists()


def _open_file(file: Path, columns: Sequence[str] | None, where: str) -> Source:
    if file.suffix.lower() in TABLE_SUFFIXES and file.is_file():
        return open_table(file, columns, where=where)
    raise DataError(
        f"{where}: expected a folder, a manifest ({', '.join(TABLE_SUFFIXES)}) or a TFRecord file (*.tfrecord), "
        f"received {str(file)!r}. Texts go with task=text_classification, tagged words with task=token_classification."
    )


def _nearest(place: Path) -> str:
    """The existing name most like the first part of a path that does not exist."""
    missing = place
    while not missing.parent.exists() and missing != missing.parent:
        missing = missing.parent
    if not missing.parent.is_dir():
        return ""
    names = [entry.name for entry in missing.parent.iterdir()]
    close = difflib.get_close_matches(missing.name, names, n=1, cutoff=0.5)
    if close:
        return f" Did you mean {str(missing.parent / close[0])!r}?"
    return "" if missing == place else f" {str(missing)!r} does not exist."
