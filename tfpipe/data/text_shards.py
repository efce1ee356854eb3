"""Texts in TFRecord shards: what a record holds, how it is read, how `pack` writes it."""

import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tfpipe.core.errors import DataError
from tfpipe.data import tfrecord
from tfpipe.data.labels import class_order
from tfpipe.data.shards import MANIFEST_FILE, open_whole, shards_manifest
from tfpipe.data.text import UNTAGGED, Kind, TaggedText, TextRow, TextSource, check_tag, tag_names
from tfpipe.data.tfrecord import Frame
from tfpipe.data.wire import Span

IDENTIFIER, TEXT = "id", "text"
# Class names, and their indices for programs that want numbers; shards of others may have the numbers alone.
LABEL_NAMES, LABELS = "label/text", "label"
STARTS, ENDS, TAGS = "starts", "ends", "tags"
_FEATURES = frozenset({IDENTIFIER, TEXT, LABEL_NAMES, LABELS, STARTS, ENDS, TAGS})
_PROGRESS_AFTER_S = 2.0
_ADVICE = "Images go with task=image_classification."


def open_text_shards(
    shards: Sequence[Path], *, kind: Kind | None, max_chars: int, where: str, whole_folder: bool = False
) -> TextSource:
    """Texts of TFRecord files, read into memory; every record is checked against its CRC.

    Args:
        shards: The files, in order; gzip files too.
        kind: What the labels must be; None: single or several labels, as the manifest or the records say.
        max_chars: See `TextSource`.
        where: The key or argument that they came from, for messages.
        whole_folder: They are all that their folder has; see `open_shards`.

    Raises:
        DataError: A file is damaged, a record lacks its text or labels, or there is none.
    """
    manifest = shards_manifest(shards, where=where, whole_folder=whole_folder)
    bar = tqdm(shards, desc="reading shards", delay=_PROGRESS_AFTER_S, disable=None, leave=False)
    rows = [row for shard in bar for row in _read_shard(shard, is_tagged=kind == "tags")]
    if not rows:
        raise DataError(f"{where}: expected records in {len(shards)} TFRecord files, found none.")
    if kind is None:
        several = any(len(row.labels) != 1 for row in rows)
        kind = manifest["kind"] if manifest else "multi" if several else "single"
    bare = next((row for row in rows if kind == "single" and len(row.labels) != 1), None)
    if bare is not None:
        raise DataError(f"{where}: expected one label a record, received {len(bare.labels)} in {bare.identifier}.")
    names = manifest["labels"] if manifest else _names(rows, kind)
    return TextSource(rows, names, kind=kind, max_chars=max_chars, where=f"{where}, {MANIFEST_FILE}")


def text_features(source: TextSource, index: int) -> dict[str, Any]:
    """What the record of a sample holds, for `tfrecord.serialize_example`."""
    content, _ = source.read(index)
    features: dict[str, Any] = {IDENTIFIER: source.identifier(index).encode()}
    if isinstance(content, TaggedText):
        tags = [tag.encode() for tag in content.tags]
        return features | {TEXT: content.text.encode(), STARTS: content.starts, ENDS: content.ends, TAGS: tags}
    labels = source.labels_of(index)
    names = [source.labels[label].encode() for label in labels]
    return features | {TEXT: content.encode(), LABELS: labels, LABEL_NAMES: names}


def _names(rows: Sequence[TextRow], kind: Kind) -> tuple[str, ...]:
    if kind == "tags":
        return tag_names(tag for row in rows if isinstance(row.content, TaggedText) for tag in row.content.tags)
    return class_order(name for row in rows for name in row.labels)


def _read_shard(shard: Path, *, is_tagged: bool) -> Iterator[TextRow]:
    with open_whole(shard) as file:
        if file.stat().st_size == 0:  # cannot be mapped
            return
        with open(file, "rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as buffer:
            for number, frame in enumerate(tfrecord.scan(buffer, shard)):
                try:
                    yield _row(buffer, frame, f"{shard.name}:{number}", is_tagged=is_tagged)
                except ValueError as error:
                    raise DataError(f"{shard}, record {number}: {error}") from error


def _row(buffer: mmap.mmap, frame: Frame, default_identifier: str, *, is_tagged: bool) -> TextRow:
    if tfrecord.masked_crc(buffer[frame.span.start : frame.span.stop]) != frame.crc:
        raise ValueError("expected a record that matches its checksum, it differs.")
    found = tfrecord.parse_example(buffer, frame.span, _FEATURES)
    strings = {name: [_decoded(buffer, name, value) for value in values] for name, values in found.items()}
    if len(strings.get(TEXT, [])) != 1:
        raise ValueError(f"expected one byte string {TEXT!r}, found {sorted(found) or 'no feature'}. {_ADVICE}")
    (text,) = strings[TEXT]
    identifier = next(iter(strings.get(IDENTIFIER, [])), default_identifier)
    if is_tagged:
        if TAGS not in found:
            raise ValueError(f"expected {STARTS!r}, {ENDS!r} and {TAGS!r}, found {sorted(found)}. {UNTAGGED}")
        starts, ends = (_integers(found.get(name, []), name) for name in (STARTS, ENDS))
        tags = [check_tag(tag) for tag in strings.get(TAGS, [])]
        if not len(starts) == len(ends) == len(tags):
            raise ValueError(f"expected as many tags as words, received {len(tags)} for {len(starts)}.")
        return TextRow(identifier, TaggedText(text, tuple(starts), tuple(ends), tuple(tags)))
    if LABELS not in found and LABEL_NAMES not in found:
        raise ValueError(
            f"expected {LABEL_NAMES!r} or {LABELS!r}, found {sorted(found)}. Tagged words go with "
            "task=token_classification."
        )
    return TextRow(identifier, text, tuple(strings.get(LABEL_NAMES) or strings.get(LABELS, [])))


def _decoded(buffer: mmap.mmap, name: str, value: Span | int) -> str:
    if isinstance(value, int):
        return str(value)
    try:
        return buffer[value.start : value.stop].decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"expected {name!r} as UTF-8 text; byte {error.start} is not.") from error


def _integers(values: Sequence[Span | int], name: str) -> list[int]:
    integers = [value for value in values if isinstance(value, int)]
    if len(integers) != len(values):
        raise ValueError(f"expected integers in {name!r}, received byte strings.")
    return integers
