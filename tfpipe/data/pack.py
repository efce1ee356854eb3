"""`python -m tfpipe.data pack`: a data set as TFRecord shards with a manifest of what is in them."""

import hashlib
import io
import itertools
import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from tfpipe import __version__
from tfpipe.core import atomic
from tfpipe.core.errors import ConfigError, DataError
from tfpipe.data import tfrecord
from tfpipe.data.findings import Inspected
from tfpipe.data.inspection import Inspection, inspect_source
from tfpipe.data.shards import FILENAME, IMAGE, LABEL, MANIFEST_FILE, MANIFEST_FORMAT, TEXT, read_manifest
from tfpipe.data.sources import Sample, Source, open_source, to_pixels
from tfpipe.data.text import TextSource
from tfpipe.data.text_files import TextForm, open_text
from tfpipe.data.text_inspection import inspect_texts
from tfpipe.data.text_shards import text_features
from tfpipe.decode import MAX_IMAGE_PIXELS

MANIFEST_FORMAT_VERSION = 1
# Large enough that a disk or network reads at full speed, small enough to copy again.
# Source: TensorFlow guide "Better performance with the tf.data API" asks for 100 to 200 MB a file.
_SHARD_BYTES = 128 * 2**20
_SHOWN = 5


@dataclass(frozen=True)
class PackResult:
    """What was written.

    Attributes:
        output_dir: The folder.
        labels: Class names in order.
        num_samples: In all shards.
        num_shards: Files.
        content_sha256: Of every sample's identifier, class and bytes; the same for any seed and number of shards.
        skipped: Samples that could not be read and were left out.
    """

    output_dir: Path
    labels: tuple[str, ...]
    num_samples: int
    num_shards: int
    content_sha256: str
    skipped: tuple[Inspected, ...]


def pack(
    path: str,
    output_dir: str | Path,
    *,
    shards: int | None = None,
    seed: int = 0,
    columns: Sequence[str] | None = None,
    max_image_pixels: int = MAX_IMAGE_PIXELS,
    skip_corrupt: bool = False,
    overwrite: bool = False,
    threads: int | None = None,
    form: TextForm | None = None,
) -> PackResult:
    """Write a data set as TFRecord shards `data-00000-of-00008.tfrecord` and manifest.json.

    Encoded files are kept as they are, byte for byte; arrays become PNG. The order is fixed by the identifiers and
    `seed`, so that packing the same data twice gives the same bytes. The folder appears whole or not at all.

    Example:
        result = pack("photos", "photos-packed", shards=4)
        print(result.num_samples, result.content_sha256)

    Args:
        path: The data, in any of the forms of `data.path`.
        output_dir: Folder to make.
        shards: Number of files; None means files of about 128 MiB.
        seed: Another seed, another order.
        columns: Column names of a manifest without a header.
        max_image_pixels: Larger images count as corrupt.
        skip_corrupt: Leave out samples that cannot be read, instead of refusing.
        overwrite: Replace an earlier pack in `output_dir`.
        threads: Images checked at the same time; None means one per core.
        form: How texts are read; None means images.

    Raises:
        ConfigError: `output_dir` exists or cannot be made, or `shards` does not fit the data.
        DataError: The data cannot be opened, or samples cannot be read and `skip_corrupt` is not set.
        OSError: The disk is full.
    """
    target = Path(output_dir)
    _check_target(target, path, overwrite=overwrite)
    source = open_source(path, columns=columns) if form is None else open_text(path, form)
    if source is None:
        raise DataError(f"data.path: expected {path}('train') to return data, received None.")
    atomic.writable_folder(target.parent, where="--output")
    samples: Sequence[Any] = (
        inspect_texts(source, "training")
        if isinstance(source, TextSource)
        else inspect_source(source, "training", max_pixels=max_image_pixels, threads=threads)
    )
    readable = [sample for sample in samples if not sample.fault]
    skipped = tuple(sample for sample in samples if sample.fault)
    _check_samples(readable, skipped, path, skip_corrupt=skip_corrupt)
    parts = _parts(readable, shards, seed)
    with atomic.staged_folder(target, replace=overwrite) as staging:
        manifest = _write(source, parts, staging, seed)
        manifest["skipped"] = sorted(sample.identifier for sample in skipped)
        content = json.dumps(manifest, indent=1, ensure_ascii=False)
        (staging / MANIFEST_FILE).write_text(content + "\n", encoding="utf-8")
    return PackResult(target, source.labels, len(readable), len(parts), manifest["content_sha256"], skipped)


def _check_target(target: Path, path: str, *, overwrite: bool) -> None:
    source = Path(path).expanduser()
    if source.is_dir() and target.resolve().is_relative_to(source.resolve()):
        raise ConfigError(f"--output: expected a folder outside of the data, received {str(target)!r} in {path!r}.")
    if not target.exists():
        return
    if not overwrite:
        raise ConfigError(
            f"--output: expected a new folder, found an existing {str(target)!r}. --overwrite replaces an earlier pack."
        )
    # Replacing removes what is there: a mistyped name must not cost anything but a pack.
    if not target.is_dir() or (read_manifest(target) is None and any(target.iterdir())):
        raise ConfigError(f"--output: expected an earlier pack to replace, found something else in {str(target)!r}.")


def _check_samples(readable: Sequence[Any], skipped: Sequence[Any], path: str, *, skip_corrupt: bool) -> None:
    if skipped and not skip_corrupt:
        shown = "".join(f"\n  {sample.identifier}: {sample.detail}" for sample in skipped[:_SHOWN])
        more = f"\n  and {len(skipped) - _SHOWN} more" if len(skipped) > _SHOWN else ""
        raise DataError(
            f"{path}: expected readable samples, {len(skipped)} of {len(skipped) + len(readable)} are not. Repair or "
            f"remove them, or leave them out with --skip-corrupt.{shown}{more}"
        )
    if not readable:
        raise DataError(f"{path}: expected readable samples, found none of {len(skipped)}.")


def _parts(samples: Sequence[Any], shards: int | None, seed: int) -> list[list[Any]]:
    """The samples in their order, cut into shards of equal counts."""
    if shards is None:
        shards = min(len(samples), math.ceil(sum(sample.size_bytes for sample in samples) / _SHARD_BYTES))
    if not 1 <= shards <= len(samples):
        raise ConfigError(f"--shards: expected 1 to {len(samples)}, the number of samples; received {shards}.")
    ordered = sorted(samples, key=lambda sample: hashlib.sha256(f"{seed}\n{sample.identifier}".encode()).digest())
    bounds = np.linspace(0, len(ordered), shards + 1).round().astype(int).tolist()
    return [ordered[start:stop] for start, stop in itertools.pairwise(bounds)]


def _write(source: Source, parts: Sequence[Sequence[Any]], folder: Path, seed: int) -> dict[str, Any]:
    """Write the shards; returns the manifest."""
    content_lines: list[str] = []
    entries: list[dict[str, Any]] = []
    with tqdm(total=sum(map(len, parts)), desc="writing shards", unit=" samples", disable=None) as bar:
        for number, part in enumerate(parts):
            name = f"data-{number:05d}-of-{len(parts):05d}.tfrecord"
            digest, size_bytes = hashlib.sha256(), 0
            with open(folder / name, "wb") as file:
                for sample in part:
                    content, example = _content_and_example(source, sample)
                    content_lines.append(_content_line(sample, content))
                    record = tfrecord.frame(example)
                    digest.update(record)
                    size_bytes += file.write(record)
                    bar.update()
            entries.append(
                {
                    "file": name,
                    "bytes": size_bytes,
                    "sha256": digest.hexdigest(),
                    "num_samples": len(part),
                    "identifiers": [sample.identifier for sample in part],
                }
            )
    kind = {"kind": source.kind} if isinstance(source, TextSource) else {}
    return {
        "format": MANIFEST_FORMAT,
        "format_version": MANIFEST_FORMAT_VERSION,
        "tfpipe_version": __version__,
        "content_sha256": hashlib.sha256("".join(sorted(content_lines)).encode()).hexdigest(),
        **kind,
        "labels": list(source.labels),
        "num_samples": len(content_lines),
        "classes": dict(sorted(Counter(name for part in parts for sample in part for name in sample.labels).items())),
        "seed": seed,
        "shards": entries,
    }


def _content_and_example(source: Source, sample: Any) -> tuple[bytes, bytes]:
    """What counts for the hash of the content, and the record."""
    if isinstance(source, TextSource):
        example = tfrecord.serialize_example(text_features(source, sample.index))
        return example, example
    content = _encoded(source.read(sample.index)[0])
    return content, _example(source, sample, content)


def _content_line(sample: Inspected, content: bytes) -> str:
    # JSON, so that no identifier can be mistaken for the end of a line.
    return json.dumps([sample.identifier, sample.label, hashlib.sha256(content).hexdigest()]) + "\n"


def _example(source: Source, sample: Inspection, content: bytes) -> bytes:
    # As stored: a reader that ignores EXIF sees these.
    is_turned = sample.orientation >= 5
    height, width = (sample.width, sample.height) if is_turned else (sample.height, sample.width)
    return tfrecord.serialize_example(
        {
            IMAGE: content,
            LABEL: source.label(sample.index),
            TEXT: sample.label.encode(),
            FILENAME: sample.identifier.encode(),
            "image/format": (sample.format if sample.format != "array" else "PNG").encode(),
            "image/height": height,
            "image/width": width,
        }
    )


def _encoded(sample: Sample) -> bytes:
    if isinstance(sample, bytes):
        return sample
    file = io.BytesIO()
    Image.fromarray(to_pixels(sample)).save(file, "PNG")
    return file.getvalue()
