"""Which trained model is converted, and what training left with it."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tfpipe.config import load_config
from tfpipe.convert.checkpoint import export_checkpoint, is_checkpoint
from tfpipe.convert.settings import MODEL_URI, no_model_at
from tfpipe.core.errors import ConfigError, DataError, DecodeError
from tfpipe.data.sharding import epoch_order
from tfpipe.data.sources import Source
from tfpipe.data.splits import open_validation_alone
from tfpipe.decode import decode_image
from tfpipe.export import load_float32
from tfpipe.models.assembly import Parts, TextParts
from tfpipe.registry import ModelVersion, Registry
from tfpipe.settings import Config
from tfpipe.training.artifacts import KnownSample, as_file


@dataclass(frozen=True)
class RawSample:
    """One training sample as training kept it.

    Attributes:
        name: File name, e.g. "0007.jpg".
        content: The file, as a client would send it.
        sample: What it is decoded to: (H, W, 3) uint8 pixels, or the text.
    """

    name: str
    content: bytes
    sample: Any


@dataclass(frozen=True)
class Foreign:
    """What goes with a model that was trained elsewhere.

    Attributes:
        validation: What accuracy is measured on; None: it is not checked.
        notes: What was found inside the model and in the data, a sentence each, for the report.
    """

    validation: Source | None
    notes: tuple[str, ...]


@dataclass(frozen=True)
class TrainedModel:
    """A trained-model folder, opened.

    Attributes:
        folder: Where it lies.
        name: Registered name, else that of the folder.
        version: The registered version; None for a model from a path.
        config: The run's configuration, with the `conversion` section that is to be used.
        card: model.json.
        parts: The model, under float32 policies.
        trained_policy: The Keras policy it was trained with.
        samples: Raw training samples, from `calibration/`.
        validation: The samples that the validation metrics were measured on; may be empty.
        given_calibration: Samples that set INT8 ranges in place of those; None: those do.
        foreign: What goes with it where it was trained elsewhere.
    """

    folder: Path
    name: str
    version: ModelVersion | None
    config: Config
    card: dict[str, Any]
    parts: Parts
    trained_policy: str
    samples: tuple[RawSample, ...]
    validation: tuple[KnownSample, ...]
    given_calibration: tuple[RawSample, ...] | None = None
    foreign: Foreign | None = None

    @property
    def calibration(self) -> tuple[RawSample, ...]:
        """Samples that set INT8 ranges."""
        samples = self.samples if self.given_calibration is None else self.given_calibration
        return samples[: self.config.conversion.calibration_samples]

    @property
    def multi_label(self) -> bool:
        """Whether a sample may have several labels, or none."""
        return self.parts.probabilities.multi_label


def fetch(
    model: str | Path | None, registry: Registry, name: str | None, destination: Path
) -> tuple[Path, ModelVersion | None]:
    """Find the trained-model folder.

    Args:
        model: "models:/NAME/VERSION", "models:/NAME@ALIAS", a path (a model.keras, an output_dir or a checkpoint), or
            None: the newest version of `name`.
        registry: Where registered models are.
        name: Registered model; None: the only one.
        destination: A folder that may be made, for what has to be downloaded or put together.

    Raises:
        ConfigError: Nothing usable at the path.
        RegistryError: No such model or version.
        CheckpointError: The checkpoint is damaged.
    """
    if model is None:
        model = f"{MODEL_URI}{registry.default_name(name)}"
    if isinstance(model, str) and model.startswith(MODEL_URI):
        version = registry.resolve(model)
        return registry.download_model(version, destination), version
    path = Path(model)
    if is_checkpoint(path):
        return export_checkpoint(path, destination), None
    folder = path.parent if path.is_file() else path
    if not (folder / "model.keras").is_file():
        raise no_model_at(model)
    return folder, None


def open_trained(folder: Path, version: ModelVersion | None, overrides: Sequence[str]) -> TrainedModel:
    """Open a trained-model folder.

    Args:
        folder: As `fetch` gives it.
        version: The registered version it is, or None.
        overrides: Like "conversion.opset=17".

    Raises:
        ConfigError: The folder lacks a file that training writes, or the overrides cannot be used.
        DataError: The calibration samples cannot be read.
        GateError: A model trained with mixed precision answers differently under float32.
    """
    missing = [name for name in ("config.yaml", "model.json", "calibration") if not (folder / name).exists()]
    if missing:
        raise ConfigError(
            f"{folder}: expected a trained-model folder, but it lacks {', '.join(missing)}. "
            "Give the output_dir of a run."
        )
    config = load_config(folder / "config.yaml", overrides)
    card = _read_json(folder / "model.json")
    parts, policy = load_float32(folder / "model.keras")
    return TrainedModel(
        folder=folder,
        name=version.name if version else card.get("model_name") or folder.resolve().name,
        version=version,
        config=config,
        card=card,
        parts=parts,
        trained_policy=policy,
        samples=read_samples(folder / "calibration", _decoder(parts, config)),
        validation=_read_validation(folder / "validation.json", parts.labels),
        given_calibration=_calibration(config, parts, parts.probabilities.multi_label),
    )


def _decoder(parts: Parts, config: Config) -> Callable[[bytes], Any]:
    if isinstance(parts, TextParts):
        return bytes.decode
    return partial(decode_image, max_pixels=config.data.max_image_pixels)


def read_samples(folder: Path, decode: Callable[[bytes], Any]) -> tuple[RawSample, ...]:
    """Raw training samples in the order of their index.

    Args:
        folder: As training left it.
        decode: A file's content -> the sample.

    Raises:
        DataError: There are none, or one cannot be read.
    """
    samples = []
    for entry in _read_json(folder / "index.json"):
        path = folder / Path(entry["file"]).name
        try:
            content = path.read_bytes()
            samples.append(RawSample(path.name, content, decode(content)))
        except (OSError, DecodeError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: expected a training sample for calibration; {error}") from error
    if not samples:
        raise DataError(f"{folder}: expected training samples for calibration, found none.")
    return tuple(samples)


def read_samples_of(
    source: Source, count: int, decode: Callable[[bytes], Any], max_pixels: int
) -> tuple[RawSample, ...]:
    """Some samples of a data set as files, picked at random but always alike; unreadable ones are passed over.

    Args:
        source: Any; its labels do not matter.
        count: Most samples.
        decode: A file's content -> the sample.
        max_pixels: Larger images are passed over.

    Raises:
        DataError: None can be read.
    """
    samples: list[RawSample] = []
    for index in epoch_order(len(source), seed=0, epoch=0).tolist():
        if len(samples) == count:
            break
        try:
            sample, _ = source.read(index)
            content, suffix = as_file(sample, max_pixels)
        except (DataError, OSError):
            continue
        samples.append(RawSample(f"{len(samples):04d}{suffix}", content, decode(content)))
    if not samples:
        raise DataError("calibration data: expected samples that can be read, found none.")
    return tuple(samples)


def _calibration(config: Config, parts: Parts, multi_label: bool) -> tuple[RawSample, ...] | None:
    """The samples of conversion.calibration_path; None where those that training kept are to be used."""
    place = config.conversion.calibration_path
    if place is None:
        return None
    there = config.data.model_copy(update={"validation_path": place})
    try:
        source = open_validation_alone(config.model_copy(update={"data": there}), parts.labels, multi_label=multi_label)
    except DataError as error:
        raise DataError(f"conversion.calibration_path: {place!r} cannot be used; {error}") from error
    if source is None:
        raise DataError(f"conversion.calibration_path: expected {place}('validation') to return data, received None.")
    count = config.conversion.calibration_samples
    return read_samples_of(source, count, _decoder(parts, config), config.data.max_image_pixels)


def _read_validation(path: Path, labels: Sequence[str]) -> tuple[KnownSample, ...]:
    if not path.exists():
        return ()
    index = _read_json(path)
    if tuple(index["labels"]) != tuple(labels):
        raise DataError(f"{path}: expected the classes of the model, {list(labels)}, received {index['labels']}.")
    return tuple(KnownSample(entry["id"], entry["label"], entry.get("stamp", "")) for entry in index["samples"])


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: expected JSON that training wrote; {error}.") from error
