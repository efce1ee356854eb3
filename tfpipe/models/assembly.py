"""Preprocessing + network + probabilities = the one model that is saved, converted and served."""

import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from tfpipe.core.errors import ConfigError
from tfpipe.models.zoo import IMAGENET, Normalization, find_model
from tfpipe.preprocessing.layers import Augmentation, Probabilities, Resize
from tfpipe.settings import Config, PreprocessingConfig


@dataclass(frozen=True)
class Preprocessing:
    """The layers between a decoded image and the network's rows, in order."""

    resize: Resize
    augmentation: Augmentation
    rescale: keras.layers.Rescaling
    normalization: keras.layers.Normalization

    def rows(self, images: Any) -> Any:
        """(B, H, W, 3) on 0..255 -> (B, height, width, 3) float32 rows, without augmentation."""
        return self.normalized(self.resize(images))

    def normalized(self, resized: Any) -> Any:
        """(B, height, width, 3) on 0..255 -> the same, scaled and normalised."""
        return self.normalization(self.rescale(resized))


@dataclass(frozen=True)
class Parts:
    """What a saved model is made of; `model` is the whole."""

    model: keras.Model
    preprocessing: Preprocessing
    network: keras.Model
    labels: tuple[str, ...]


def known_normalization(config: Config) -> Normalization | None:
    """The normalisation that the configuration settles; None where it is to be adapted to the training data.

    Raises:
        ConfigError: The model normalises for itself and the configuration asks for something else.
    """
    preprocessing = config.preprocessing
    own = find_model(config.model.name).normalization
    if own is not None:
        if preprocessing.normalization != "auto":
            raise ConfigError(
                f"preprocessing.normalization: model {config.model.name!r} brings its own; expected auto, "
                f"received {preprocessing.normalization}."
            )
        return own
    if preprocessing.normalization == "imagenet":
        return IMAGENET
    if preprocessing.normalization == "none":
        return Normalization((0.0,), (1.0,))
    if preprocessing.normalization == "fixed":
        return Normalization(preprocessing.mean or (0.0,), preprocessing.std or (1.0,))
    return None


def build_resize(config: PreprocessingConfig) -> Resize:
    """The resize layer of a configuration."""
    height, width = config.image_size
    return Resize(
        height, width, mode=config.resize, interpolation=config.interpolation, antialias=config.antialias,
        dtype="float32", name="resize",
    )  # fmt: skip


def build_preprocessing(config: PreprocessingConfig, normalization: Normalization) -> Preprocessing:
    """The preprocessing layers of a configuration, always in float32."""
    # Three values, for one is given for all channels too: Normalization wants the axis' length.
    mean = list(normalization.mean) * (3 // len(normalization.mean))
    variance = [s * s for s in list(normalization.std) * (3 // len(normalization.std))]
    return Preprocessing(
        resize=build_resize(config),
        augmentation=Augmentation(**config.augmentation.model_dump(), dtype="float32", name="augmentation"),
        rescale=keras.layers.Rescaling(1 / 255, dtype="float32", name="rescale"),
        normalization=keras.layers.Normalization(mean=mean, variance=variance, dtype="float32", name="normalization"),
    )


def build_network(config: Config, num_classes: int) -> keras.Model:
    """The network of a configuration, float rows -> logits, with its initial weights.

    Raises:
        ConfigError: Unknown model, weights that cannot be had, or a function that gives something else.
    """
    height, width = config.preprocessing.image_size
    entry = find_model(config.model.name)
    if config.model.weights == "imagenet" and not entry.pretrained:
        raise ConfigError(
            f"model.weights: {config.model.name!r} has no imagenet weights; expected `random` or a local file."
        )
    network = entry.build((height, width, 3), num_classes, config)
    if not isinstance(network, keras.Model):
        raise ConfigError(f"model.name: expected {config.model.name!r} to return a Keras model, received {network!r}.")
    expected = (None, num_classes)
    if tuple(network.output_shape) != expected:
        raise ConfigError(
            f"model.name: expected {config.model.name!r} to give logits of shape {expected}, "
            f"received {network.output_shape}."
        )
    if config.model.weights not in ("random", "imagenet"):
        load_weights(network, Path(config.model.weights))
    network.name = "network"
    return network


def assemble(preprocessing: Preprocessing, network: keras.Model, labels: tuple[str, ...]) -> Parts:
    """One model from decoded images to probabilities.

    Returns:
        Its input `image` is (B, H, W, 3), uint8 or float32 on 0..255, of any size; its output (B, classes) float32.
    """
    image = keras.Input((None, None, 3), dtype="float32", name="image")
    x = preprocessing.augmentation(preprocessing.resize(image))
    logits = network(preprocessing.normalized(x))
    model = keras.Model(image, Probabilities(labels, name="probabilities")(logits), name="model")
    return Parts(model=model, preprocessing=preprocessing, network=network, labels=labels)


def load_model(path: Path) -> Parts:
    """Read a `model.keras` back into its parts.

    Raises:
        ConfigError: Not a file that tfpipe saved.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: expected a model.keras, found no file.")
    return parts_of(_read_keras_file(path, where=str(path)), where=str(path))


def parts_of(model: keras.Model, *, where: str) -> Parts:
    """Take a saved model apart again.

    Raises:
        ConfigError: It lacks one of our layers; `where` names it in the message.
    """
    layers = {layer.name: layer for layer in model.layers}
    wanted = ("resize", "augmentation", "rescale", "normalization", "network", "probabilities")
    if missing := [name for name in wanted if name not in layers]:
        raise ConfigError(f"{where}: expected a model that tfpipe saved, but it lacks the layers {', '.join(missing)}.")
    preprocessing = Preprocessing(*(layers[name] for name in wanted[:4]))
    return Parts(model, preprocessing, layers["network"], layers["probabilities"].labels)


def _read_keras_file(path: Path, *, where: str) -> keras.Model:
    try:
        return keras.saving.load_model(path, compile=False)
    except (ValueError, OSError, TypeError, KeyError, zipfile.BadZipFile) as error:
        raise ConfigError(
            f"{where}: expected a model.keras, received a file that Keras cannot load: {_first_line(error)}"
        ) from error


def load_weights(network: keras.Model, path: Path) -> None:
    """Copy weights from a file; those of a head with other classes keep their initial values."""
    if not path.is_file():
        raise ConfigError(f"model.weights: expected `random`, `imagenet` or a file, found no file at {str(path)!r}.")
    if path.suffix not in (".keras", ".h5"):
        raise ConfigError(f"model.weights: expected a .keras or .weights.h5 file, received {str(path)!r}.")
    if path.suffix == ".h5":
        _load_h5(network, path)
        return
    loaded = _read_keras_file(path, where=f"model.weights: {path}")
    layers = {layer.name: layer for layer in loaded.layers}
    source = layers.get("network", loaded)
    if len(source.weights) != len(network.weights):
        raise ConfigError(
            f"model.weights: expected {len(network.weights)} weights, {path} holds {len(source.weights)}: "
            "another model."
        )
    head = {id(weight) for weight in network.layers[-1].weights}
    for target, value in zip(network.weights, source.weights, strict=True):
        if target.shape == value.shape:
            target.assign(value)
        elif id(target) not in head:
            raise ConfigError(
                f"model.weights: {target.path}: expected shape {target.shape}, {path} holds {value.shape}: "
                "another model."
            )


def _load_h5(network: keras.Model, path: Path) -> None:
    """Keras's own format, whose layers go by class and order: all of them, or else all but the head."""
    backbone = keras.Model(network.inputs, network.layers[-1].input)
    for target in (network, backbone):
        try:
            with warnings.catch_warnings():
                # What Keras skips with a warning would keep its initial weights.
                warnings.simplefilter("error", UserWarning)
                target.load_weights(path)
        except (ValueError, OSError, KeyError, UserWarning) as error:
            failure = error
        else:
            return
    raise ConfigError(
        f"model.weights: {path} does not fit the model at this image_size: {_first_line(failure)}"
    ) from failure


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
