"""What a run leaves: the trained model and what conversion needs to prove itself elsewhere.

model.keras        decoded images of any size, or token ids -> probabilities
tokenizer/         of texts: what makes the ids
model.json         labels, metrics, data fingerprint, commit, library versions
calibration/       raw training samples and index.json
validation.json    which samples the validation metrics were measured on
"""

import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from tfpipe.core import atomic
from tfpipe.core.errors import DataError
from tfpipe.data.sharding import epoch_order
from tfpipe.data.sources import Source, to_pixels
from tfpipe.data.splits import Splits
from tfpipe.data.text import TaggedText, TextSource
from tfpipe.decode import image_header
from tfpipe.models.assembly import Parts, TextParts
from tfpipe.text import tokenizer as tokenizers
from tfpipe.text.encoding import check_text

CALIBRATION_SAMPLES = 200


class KnownSample(NamedTuple):
    """A line of validation.json.

    Attributes:
        id: `Source.identifier`.
        label: `Source.label`.
        stamp: Of a text, `Source.stamp`; else "".
    """

    id: str
    label: int
    stamp: str


def save_model(parts: Parts, path: Path) -> None:
    """Write `model.keras` whole or not at all.

    Raises:
        OSError: The disk is full or the folder not writable.
    """
    with atomic.naming(path), tempfile.TemporaryDirectory(dir=path.parent, prefix=".model.") as staging:
        staged = Path(staging) / path.name
        parts.model.save(staged)
        with open(staged, "rb") as file:
            os.fsync(file.fileno())
        staged.replace(path)
    atomic.sync_folder(path.parent)


def save_tokenizer(parts: Parts, folder: Path) -> None:
    """Write the folder `tokenizer` of a model of texts; nothing for images.

    Raises:
        OSError: The disk is full or the folder not writable.
    """
    if isinstance(parts, TextParts):
        parts.saved.write(folder / tokenizers.FOLDER)


def save_model_card(path: Path, card: dict[str, Any]) -> None:
    """Write `model.json`."""
    atomic.write_file(path, json.dumps(card, indent=2, ensure_ascii=False) + "\n")


def save_validation_index(path: Path, splits: Splits) -> None:
    """Write which samples the validation metrics were measured on, so that a later gate uses the same."""
    source = splits.validation
    samples = [] if source is None else [known_as(source, index)._asdict() for index in range(len(source))]
    atomic.write_file(path, json.dumps({"labels": list(splits.train.labels), "samples": samples}, ensure_ascii=False))


def known_as(source: Source, index: int) -> KnownSample:
    """What tells whether a sample is still the same."""
    # A text may have several labels, or tags: its stamp has all of them, whatever the file that it is in.
    stamp = source.stamp(index) if isinstance(source, TextSource) else ""
    return KnownSample(source.identifier(index), source.label(index), stamp)


def save_calibration(folder: Path, source: Source, *, seed: int, max_pixels: int) -> None:
    """Write up to 200 training samples as raw files with an index.

    Args:
        folder: Made anew.
        source: Training samples; corrupt ones are passed over.
        seed: Which samples.
        max_pixels: Larger images count as corrupt.
    """
    index: list[dict[str, Any]] = []
    with atomic.staged_folder(folder, replace=True) as staging:
        for sample_index in epoch_order(len(source), seed=seed, epoch=0).tolist():
            if len(index) == CALIBRATION_SAMPLES:
                break
            try:
                sample, label = source.read(sample_index)
                content, suffix = as_file(sample, max_pixels)
            except (DataError, OSError):
                continue
            name = f"{len(index):04d}{suffix}"
            (staging / name).write_bytes(content)
            index.append({"file": name, "label": label, "id": source.identifier(sample_index)})
        (staging / "index.json").write_text(json.dumps(index, indent=1, ensure_ascii=False), encoding="utf-8")


def as_file(sample: Any, max_pixels: int) -> tuple[bytes, str]:
    """A sample as a file that a client could send, and its suffix; arrays become PNG, which keeps every pixel.

    Raises:
        DecodeError: It cannot be read, or is larger than allowed.
    """
    if isinstance(sample, str | TaggedText):
        text = sample.text if isinstance(sample, TaggedText) else sample
        check_text(text)
        return text.encode(), ".txt"
    to_pixels(sample, max_pixels)
    if isinstance(sample, bytes):
        image_format, *_ = image_header(sample)
        return sample, {"JPEG": ".jpg"}.get(image_format, f".{image_format.lower()}")
    buffer = io.BytesIO()
    Image.fromarray(sample).save(buffer, "PNG")
    return buffer.getvalue(), ".png"
