"""What is said of a model that was trained elsewhere: by a small YAML file, and by key=value on the command line.

    task: image_classification        # or tensor: named tensors in, named tensors out
    labels: [cat, dog]                # or a text file, one name a line; in the order of the model's output
    preprocessing:                    # between a decoded image and the model; its own layers are left alone
      image_size: [224, 224]
      normalization: raw
    data:
      validation_path: pictures/validation
    conversion:
      max_metric_drop: 0.01

What is not said is looked for inside the model.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from tfpipe.config import COMMAND_LINE, described_problems, override_values, read_values, refusal
from tfpipe.conversion_settings import ConversionConfig
from tfpipe.core.errors import ConfigError
from tfpipe.decode import MAX_IMAGE_PIXELS
from tfpipe.sections import (
    Antialias,
    ChannelValues,
    Interpolation,
    Pair,
    Resize,
    Section,
    Strings,
    are_given_as_asked,
    are_of_channels,
)

SUFFIXES = (".keras", ".h5", ".hdf5")
SAVED_MODEL = "saved_model.pb"
# What training leaves beside its model.keras.
_TRAINED = ("config.yaml", "model.json", "calibration")


def _names(value: object) -> object:
    """Labels as text: YAML reads the class `3` as a number."""
    return tuple(str(label) for label in value) if isinstance(value, list | tuple) else value


class ForeignDataConfig(Section):
    """Where samples are."""

    path: str | None = Field(
        None, description="Images that the model was trained on, in any form of data.path; INT8 ranges are set by them."
    )
    validation_path: str | None = Field(None, description="Labelled images that the gate measures accuracy on.")
    columns: Strings | None = Field(None, description="Column names of a table without a header.")
    max_image_pixels: int = Field(MAX_IMAGE_PIXELS, ge=1, description="Larger images count as corrupt.")
    max_corrupt_fraction: float = Field(0.01, ge=0, le=1, description="Share of unreadable samples that is borne.")


class ForeignPreprocessingConfig(Section):
    """What brings a decoded image, 8-bit RGB, to the model's input."""

    image_size: Pair | None = Field(
        None, description="[height, width]; default: the model's input, or its first Resizing layer's."
    )
    resize: Resize = "stretch"
    interpolation: Interpolation = "bilinear"
    antialias: Antialias = False
    normalization: Literal["auto", "raw", "none", "imagenet", "fixed"] = Field(
        "auto",
        description="What the model takes: values 0..255 (raw), 0..1 (none), normalised by ImageNet's mean and "
        "deviation, or by `mean` and `std` (fixed); auto: as the model's own first layers show.",
    )
    mean: ChannelValues = None
    std: ChannelValues = None


class TensorConfig(Section):
    """One input of a model that does not say what it takes."""

    name: str
    dtype: str = "float32"
    shape: Annotated[tuple[int | str, ...], Field(strict=False)] = Field(
        description="A length an axis, or the axis' name where any length goes; the first is the batch."
    )


class ForeignConfig(Section):
    """A model that was trained elsewhere."""

    task: Literal["auto", "image_classification", "tensor"] = Field(
        "auto", description="auto: image_classification for one input of images and one output of classes, else tensor."
    )
    labels: Annotated[Strings | str | None, BeforeValidator(_names)] = Field(
        None,
        description="Class names in the order of the output, or a text file with one a line; default: the classes of "
        "the data, or else their numbers.",
    )
    output: Literal["auto", "probabilities", "logits"] = Field(
        "auto", description="What a classifier gives; auto: as its last activation shows, or else its answers."
    )
    signature: str = Field("serving_default", description="Signature of a SavedModel that is converted.")
    inputs: Annotated[tuple[TensorConfig, ...], Field(strict=False)] = Field(
        (), description="Task tensor: what a model takes that does not say so itself."
    )
    data: ForeignDataConfig = ForeignDataConfig()
    preprocessing: ForeignPreprocessingConfig = ForeignPreprocessingConfig()
    conversion: ConversionConfig = ConversionConfig()

    @property
    def has_calibration(self) -> bool:
        """Whether there is anything to set INT8 ranges by."""
        return any((self.conversion.calibration_path, self.data.path, self.data.validation_path))


def is_foreign(model: str | Path | None) -> bool:
    """Whether a model was trained elsewhere: a model file, or the folder of a SavedModel, without what training leaves.

    Args:
        model: As `convert` takes it.
    """
    if model is None or str(model).startswith("models:/"):
        return False
    path = Path(model)
    if path.is_dir():
        return (path / SAVED_MODEL).is_file()
    return path.is_file() and (
        path.name != "model.keras" or not any((path.parent / name).exists() for name in _TRAINED)
    )


def read_foreign_config(config: str | Path | None, overrides: Sequence[str]) -> ForeignConfig:
    """Put a file and overrides together; overrides win.

    Args:
        config: YAML file; None: everything is found inside the model.
        overrides: Like "preprocessing.normalization=raw".

    Raises:
        ConfigError: Lists every unknown key and wrong value at once; a labels file that cannot be read.
    """
    where = str(config or COMMAND_LINE)
    base = read_values(config, ()) if config is not None else {}
    values = override_values(base, overrides, where=where)
    try:
        read = ForeignConfig.model_validate(values)
    except ValidationError as error:
        raise refusal(described_problems(error, ForeignConfig), where=where, overrides=overrides) from error
    _check_normalization(read.preprocessing, where)
    labels = read.labels
    if isinstance(labels, str):
        labels = _read_labels(Path(labels), Path(config).parent if config is not None else Path())
    if labels is not None and len(set(labels)) != len(labels):
        raise ConfigError(f"labels: expected different names, received {list(labels)}.")
    return read.model_copy(update={"labels": labels})


def _check_normalization(preprocessing: ForeignPreprocessingConfig, where: str) -> None:
    mean, std = preprocessing.mean, preprocessing.std
    if not are_given_as_asked(preprocessing.normalization, mean, std):
        raise ConfigError(f"{where}: preprocessing.mean and .std are given with normalization=fixed, and only then.")
    if not are_of_channels(mean, std):
        raise ConfigError(f"{where}: preprocessing.mean and .std: expected 1 or 3 numbers each, std above 0.")


def _read_labels(file: Path, folder: Path) -> tuple[str, ...]:
    """Names of a text file, which is looked for beside the YAML file first."""
    path = next((place for place in (folder / file, file) if place.is_file()), None)
    if path is None:
        raise ConfigError(f"labels: expected a list of names or a text file with one a line, found none at '{file}'.")
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"labels: {path}: expected UTF-8 text, one name a line; {error}.") from error
    return tuple(line.strip() for line in lines if line.strip())


def described_keys() -> list[tuple[str, str]]:
    """(key, description) of every key that only models trained elsewhere take."""
    sections: dict[str, type[BaseModel]] = {
        "": ForeignConfig, "data.": ForeignDataConfig, "preprocessing.": ForeignPreprocessingConfig,
    }  # fmt: skip
    return [
        (f"{prefix}{name}", field.description or "")
        for prefix, section in sections.items()
        for name, field in section.model_fields.items()
        if field.description
    ]
