"""A model that was trained elsewhere, on its way to a bundle."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import keras
import numpy as np
from PIL import Image

from tfpipe.config import parse_config
from tfpipe.convert import keras_files
from tfpipe.convert.classifier import Classifier, is_image_classifier, understand_classifier
from tfpipe.convert.foreign_settings import ForeignConfig
from tfpipe.convert.trained import Foreign, RawSample, TrainedModel, read_samples_of
from tfpipe.core.errors import ConfigError, DataError
from tfpipe.core.signature import Array, TensorSpec
from tfpipe.data.sharding import epoch_order
from tfpipe.data.sources import Relabelled, Source, open_source, subset
from tfpipe.decode import decode_image
from tfpipe.models.assembly import IMAGE_LAYERS, parts_of
from tfpipe.models.text_layers import TokenIds
from tfpipe.provenance import library_versions
from tfpipe.settings import Config, PreprocessingConfig

_GENERATED = 8
# Of validation data that are all there is.
_SHARE_HELD_OUT = 0.25


@dataclass(frozen=True)
class Data:
    """Samples that were given with a model.

    Attributes:
        calibration: Images that set INT8 ranges; empty where none were given.
        validation: What the gate measures accuracy on; None where none was given.
        labels: Classes of the data; None where none were given.
        notes: Where they come from, a sentence each.
    """

    calibration: tuple[RawSample, ...]
    validation: Source | None
    labels: tuple[str, ...] | None
    notes: tuple[str, ...]


def read_model(path: Path, config: ForeignConfig, *, allow_code: bool, imports: Sequence[str]) -> keras.Model:
    """Read a model file, under float32 policies.

    Raises:
        ConfigError: See `keras_files.read_keras_file`.
        ConversionError: It cannot be rebuilt, or does not answer inputs of its own shapes.
    """
    model = keras_files.read_keras_file(path, allow_code=allow_code, imports=imports)
    specs = tuple(TensorSpec(spec.name, spec.dtype, spec.shape) for spec in config.inputs)
    return keras_files.as_functional(model, specs)


def task_of(model: keras.Model, config: ForeignConfig) -> str:
    """The task: of what was said, or else of what the model looks like."""
    if config.task != "auto":
        return config.task
    return "image_classification" if is_image_classifier(model) else "tensor"


def open_classifier(path: Path, model: keras.Model, config: ForeignConfig) -> TrainedModel:
    """A foreign image classifier as conversion takes trained models.

    Args:
        path: Of its file.
        model: As `read_model` gives it.
        config: What is said of it.

    Raises:
        ConfigError: Something has to be said that is not found inside it.
        DataError: Data that cannot be read, or with classes that the model does not have.
    """
    float32, policy = keras_files.in_float32(model)
    data = open_data(config)
    understood = _understand(float32, path, config, data.labels)
    labels = understood.parts.labels
    return TrainedModel(
        folder=path.parent,
        name=model_name(path),
        version=None,
        config=_run_config(config, understood.preprocessing),
        card={"library_versions": library_versions()},
        parts=understood.parts,
        trained_policy=policy,
        samples=data.calibration or generated_images(understood.preprocessing.image_size),
        validation=(),
        given_calibration=data.calibration,
        foreign=Foreign(_counted_in(labels, data.validation), (*understood.notes, *data.notes)),
    )


def open_data(config: ForeignConfig) -> Data:
    """Open what was given; where there are validation data alone, some of them set INT8 ranges and are not scored.

    Raises:
        DataError: Nothing there, or not readable as images.
    """
    data, conversion, notes = config.data, config.conversion, []
    decode = partial(decode_image, max_pixels=data.max_image_pixels)
    validation = None if data.validation_path is None else _open(data.validation_path, "data.validation_path", config)
    labels = None if validation is None else validation.labels
    where = "conversion.calibration_path" if conversion.calibration_path else "data.path"
    place = conversion.calibration_path or data.path
    if place is not None:
        source = _open(place, where, config)
        labels = labels or source.labels
        calibration = read_samples_of(source, conversion.calibration_samples, decode, data.max_image_pixels)
    elif validation is not None:
        count = min(conversion.calibration_samples, int(len(validation) * _SHARE_HELD_OUT))
        order = epoch_order(len(validation), seed=0, epoch=0)
        held_out, validation = subset(validation, order[:count]), subset(validation, np.sort(order[count:]))
        calibration = read_samples_of(held_out, count, decode, data.max_image_pixels)
        notes.append(
            f"{count} of the validation samples set INT8 ranges and are not scored, as no other data were given."
        )
    else:
        calibration = ()
        notes.append(f"No images were given: {_GENERATED} generated ones are compared, and travel as golden samples.")
    if validation is None:
        notes.append("Accuracy was not checked: no validation data were given (data.validation_path).")
    return Data(calibration, validation, labels, tuple(notes))


def generated_images(size: tuple[int, int]) -> tuple[RawSample, ...]:
    """Noise on ramps, from dark to light, as PNG files of the model's size; the same on every machine."""
    random, samples = np.random.default_rng(0), []
    for number in range(_GENERATED):
        ramp = np.linspace(0, 255 * (number + 1) / _GENERATED, size[1])[None, :, None]
        pixels: Array = np.clip(ramp + random.integers(-40, 40, (*size, 3)), 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        content = buffer.getvalue()
        samples.append(RawSample(f"{number:04d}.png", content, decode_image(content)))
    return tuple(samples)


def model_name(path: Path) -> str:
    """Of its file, or of the folder where that is called like all others."""
    path = path.resolve()
    return path.parent.name if path.name == "model.keras" else path.stem


def _understand(model: keras.Model, path: Path, config: ForeignConfig, labels: Sequence[str] | None) -> Classifier:
    names = {layer.name for layer in model.layers}
    if any(isinstance(layer, TokenIds) for layer in model.layers):
        raise ConfigError(
            f"--model: {path}: a model of texts that tfpipe trained; expected its tokenizer and model.json beside it. "
            "Give the output_dir of its run."
        )
    if not {*IMAGE_LAYERS, "network", "probabilities"} <= names:
        return understand_classifier(model, config, labels)
    parts = parts_of(model, where=str(path))
    resize, normalization = parts.preprocessing.resize, parts.preprocessing.normalization
    preprocessing = PreprocessingConfig.model_validate(
        {
            "image_size": (resize.height, resize.width),
            "resize": resize.mode,
            "interpolation": resize.interpolation,
            "antialias": resize.antialias,
            "normalization": "fixed",
            "mean": np.ravel(normalization.mean).tolist(),
            "std": np.sqrt(np.ravel(normalization.variance)).tolist(),
        }
    )
    return Classifier(parts, preprocessing, ("Labels and preprocessing are those that tfpipe saved in the model.",))


def _open(place: str, where: str, config: ForeignConfig) -> Source:
    source = open_source(place, columns=config.data.columns, split="validation", where=where)
    if source is None:
        raise DataError(f"{where}: expected {place}('validation') to return data, received None.")
    return source


def _counted_in(labels: Sequence[str], source: Source | None) -> Source | None:
    """Data whose classes are counted in the model's."""
    if source is None:
        return None
    if unknown := sorted(set(source.labels) - set(labels)):
        raise DataError(
            f"data.validation_path: expected classes of the model, {', '.join(labels)}; received {', '.join(unknown)} "
            "too. Give labels=[...] in the order of the model's output."
        )
    return Relabelled(source, tuple(labels))


def _run_config(config: ForeignConfig, preprocessing: PreprocessingConfig) -> Config:
    """The configuration of a run that would have had this model and these data."""
    data = config.data
    return parse_config(
        {
            "task": "image_classification",
            "data": {
                "path": data.path or data.validation_path or "",
                "validation_path": data.validation_path,
                "columns": data.columns,
                "max_image_pixels": data.max_image_pixels,
                "max_corrupt_fraction": data.max_corrupt_fraction,
            },
            "preprocessing": preprocessing.model_dump(),
            "conversion": config.conversion.model_dump(),
        },
        where="--model",
    )
