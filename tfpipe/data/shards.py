"""TFRecord shards as a source: random access to labelled images through an index of where each record is."""

import contextlib
import gzip
import json
import mmap
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from tfpipe.core.errors import DataError, DecodeError
from tfpipe.data import tfrecord
from tfpipe.data.labels import class_order
from tfpipe.data.tfrecord import Frame
from tfpipe.data.wire import Span

MANIFEST_FILE = "manifest.json"
MANIFEST_FORMAT = "tfpipe-pack"

IMAGE, LABEL, TEXT, FILENAME = "image/encoded", "image/class/label", "image/class/text", "image/filename"
_FEATURES = frozenset({IMAGE, LABEL, TEXT, FILENAME})
_GZIP_MAGIC = b"\x1f\x8b"
_PROGRESS_AFTER_S = 2.0


class _Record(NamedTuple):
    shard: int
    frame: Frame
    image: Span
    number: int | None
    text: str
    filename: str


class ShardSource:
    """Records of TFRecord files, each a tf.train.Example with an encoded image and a class.

    In file order, files in the order given. A record is checked against its CRC whenever it is read.

    Args:
        shards: The files; gzip files are unpacked into a temporary folder that goes with the source.
        names: Class names in order; None means those that occur, sorted.
        where: What the shards came from, for messages.

    Raises:
        DataError: A file is damaged, a record lacks image or class, or a class is none of `names`.
    """

    def __init__(self, shards: Sequence[Path], names: Sequence[str] | None, *, where: str) -> None:
        self._names = [shard.name for shard in shards]
        self._unpacked = tempfile.TemporaryDirectory(prefix="tfpipe-shards-")
        self._files = [_plain(shard, Path(self._unpacked.name), index) for index, shard in enumerate(shards)]
        bar = tqdm(range(len(shards)), desc="reading shards", delay=_PROGRESS_AFTER_S, disable=None, leave=False)
        records = [record for index in bar for record in _index(self._files[index], shards[index], index)]
        if not records:
            raise DataError(f"{where}: expected records in {len(shards)} TFRecord files, found none.")
        classes = _class_names(records, self._names)
        self.labels = tuple(names) if names is not None else class_order(classes)
        self._classes = _indices(classes, self.labels, where)
        self._shard_of = np.array([record.shard for record in records], dtype=np.int32)
        self._frames = [record.frame for record in records]
        self._images = [record.image for record in records]
        self._identifiers = self._choose_identifiers(records)

    def __len__(self) -> int:
        return len(self._frames)

    def identifier(self, index: int) -> str:
        return self._identifiers[index]

    def label(self, index: int) -> int:
        return int(self._classes[index])

    def stamp(self, index: int) -> str:
        return f"{self._frames[index].crc:08x}"

    def read(self, index: int) -> tuple[bytes, int]:
        span, image = self._frames[index].span, self._images[index]
        try:
            with open(self._files[self._shard_of[index]], "rb") as file:
                file.seek(span.start)
                data = file.read(span.stop - span.start)
        except OSError as error:
            raise DecodeError(f"{self.identifier(index)}: expected a readable record; {error.strerror}.") from error
        if tfrecord.masked_crc(data) != self._frames[index].crc:
            raise DecodeError(f"{self.identifier(index)}: expected a record that matches its checksum, it differs.")
        return data[image.start - span.start : image.stop - span.start], self.label(index)

    def _choose_identifiers(self, records: Sequence[_Record]) -> list[str]:
        filenames = [record.filename for record in records]
        # Foreign shards often repeat a name, or have none.
        if all(filenames) and len(set(filenames)) == len(filenames):
            return filenames
        return [f"{self._names[record.shard]}:{number}" for number, record in _numbered(records)]


def is_shard_name(name: str) -> bool:
    """Whether a file's name says TFRecord: `train.tfrecord`, `a.tfrecords.gz`, `x.tfrecord-00000-of-00008`."""
    return ".tfrecord" in name.lower() and not name.startswith(".")


def open_shards(shards: Sequence[Path], *, where: str, whole_folder: bool = False) -> ShardSource:
    """Open TFRecord files, by the manifest that `pack` wrote beside them where there is one.

    Args:
        shards: The files, in order.
        where: The key or argument that they came from, for messages.
        whole_folder: They are all that their folder has: a shard that the manifest names must be among them.

    Raises:
        DataError: See `ShardSource`; or a shard is missing or of another size than the manifest says.
    """
    manifest = shards_manifest(shards, where=where, whole_folder=whole_folder)
    return ShardSource(shards, None if manifest is None else manifest["labels"], where=where)


def shards_manifest(shards: Sequence[Path], *, where: str, whole_folder: bool) -> dict[str, Any] | None:
    """The manifest that `pack` wrote beside shards, once they agree with it; None where there is none.

    Raises:
        DataError: A shard is missing or of another size than the manifest says.
    """
    manifest = read_manifest(shards[0].parent) if shards else None
    if manifest is None:
        return None
    sizes = {entry["file"]: entry["bytes"] for entry in manifest["shards"]}
    missing = sorted(set(sizes) - {shard.name for shard in shards}) if whole_folder else []
    if missing:
        raise DataError(
            f"{where}: expected the {len(sizes)} shards of {MANIFEST_FILE}, found no {', '.join(missing[:5])}."
        )
    for shard in shards:
        if shard.name not in sizes:
            raise DataError(f"{shard}: expected a shard that {MANIFEST_FILE} beside it names, it does not.")
        if shard.stat().st_size != sizes[shard.name]:
            raise DataError(
                f"{shard}: expected {sizes[shard.name]} bytes as {MANIFEST_FILE} says, received "
                f"{shard.stat().st_size}. Copy or pack it again."
            )
    return manifest


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest that `pack` left in a folder; None where there is none, or one of another program.

    Raises:
        DataError: It cannot be read.
    """
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / MANIFEST_FILE}: expected JSON; {error}.") from error
    is_ours = isinstance(manifest, dict) and manifest.get("format") == MANIFEST_FORMAT
    return manifest if is_ours else None


@contextlib.contextmanager
def open_whole(shard: Path) -> Iterator[Path]:
    """A shard as a plain file, for as long as the context lasts: itself, or an unpacked copy of a gzip file.

    Raises:
        DataError: It cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="tfpipe-shards-") as scratch:
        yield _plain(shard, Path(scratch), 0)


def _plain(shard: Path, scratch: Path, index: int) -> Path:
    """The shard itself, or its unpacked copy where it is a gzip file."""
    try:
        with open(shard, "rb") as file:
            head = file.read(12)
        # A plain file may begin with gzip's two bytes by chance: its checksum tells.
        if not head.startswith(_GZIP_MAGIC) or tfrecord.starts_with_frame(head):
            return shard
        target = scratch / f"{index:05d}"
        with gzip.open(shard, "rb") as packed, open(target, "wb") as plain:
            shutil.copyfileobj(packed, plain)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{shard}: expected a whole gzip file; {error}.") from error
    except OSError as error:
        raise DataError(f"{shard}: expected a readable TFRecord file; {error.strerror}.") from error
    return target


def _index(file: Path, shard: Path, number: int) -> list[_Record]:
    if file.stat().st_size == 0:  # cannot be mapped
        return []
    with open(file, "rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as buffer:
        # Only headers are read: reading ahead would fetch the images.
        buffer.madvise(mmap.MADV_RANDOM)
        return [
            _parse(buffer, frame, number, f"{shard}, record {position}")
            for position, frame in enumerate(tfrecord.scan(buffer, shard))
        ]


def _parse(buffer: mmap.mmap, frame: Frame, shard: int, where: str) -> _Record:
    try:
        features = tfrecord.parse_example(buffer, frame.span, _FEATURES)
    except ValueError as error:
        raise DataError(f"{where}: expected a tf.train.Example, received other bytes ({error}).") from error
    image = features.get(IMAGE, [])
    if len(image) != 1 or not isinstance(image[0], Span):
        raise DataError(
            f"{where}: expected one byte string {IMAGE!r}, found {sorted(features) or 'no feature'}. Texts go with "
            "task=text_classification, tagged words with task=token_classification."
        )
    numbers = features.get(LABEL, [])
    if len(numbers) > 1 or any(isinstance(number, Span) for number in numbers):
        raise DataError(f"{where}: expected one integer {LABEL!r}, received {len(numbers)} values.")
    record = _Record(
        shard=shard,
        frame=frame,
        image=image[0],
        number=next((value for value in numbers if isinstance(value, int)), None),
        text=_text(buffer, features.get(TEXT, []), f"{where}, {TEXT}"),
        filename=_text(buffer, features.get(FILENAME, []), f"{where}, {FILENAME}"),
    )
    if record.number is None and not record.text:
        raise DataError(f"{where}: expected {LABEL!r} or {TEXT!r}, found neither.")
    return record


def _text(buffer: mmap.mmap, values: tfrecord.Feature, where: str) -> str:
    if not values or not isinstance(values[0], Span):
        return ""
    try:
        return buffer[values[0].start : values[0].stop].decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: expected UTF-8 text; {error.reason}.") from error


def _class_names(records: Sequence[_Record], shard_names: Sequence[str]) -> list[str]:
    """The class of each record: its text, or the text that its number has elsewhere, or its number."""
    texts: dict[int, str] = {}
    for position, record in _numbered(records):
        if record.number is None or not record.text:
            continue
        known = texts.setdefault(record.number, record.text)
        if known != record.text:
            raise DataError(
                f"{shard_names[record.shard]}, record {position}: expected {TEXT!r} {known!r} for class "
                f"{record.number} as in other records, received {record.text!r}."
            )
    return [record.text or texts.get(record.number or 0, str(record.number)) for record in records]


def _numbered(records: Sequence[_Record]) -> list[tuple[int, _Record]]:
    """Each record with its position in its own file."""
    numbered: list[tuple[int, _Record]] = []
    for record in records:
        same_file = bool(numbered) and numbered[-1][1].shard == record.shard
        numbered.append((numbered[-1][0] + 1 if same_file else 0, record))
    return numbered


def _indices(classes: Sequence[str], labels: Sequence[str], where: str) -> np.ndarray:
    position = {name: index for index, name in enumerate(labels)}
    unknown = sorted(set(classes) - set(position))
    if unknown:
        raise DataError(f"{where}: expected the classes of {MANIFEST_FILE}, received {', '.join(unknown[:5])} too.")
    return np.array([position[name] for name in classes], dtype=np.int64)
