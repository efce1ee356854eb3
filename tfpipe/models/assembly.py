"""Preprocessing + network + probabilities = the one model that is saved, converted and served."""

import importlib
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from tfpipe.core.errors import BundleError, ConfigError
from tfpipe.inference.texts import TextInference
from tfpipe.models.text_layers import TokenIds
from tfpipe.models.zoo import IMAGENET, Normalization, find_model
from tfpipe.preprocessing.layers import Augmentation, Probabilities, Resize
from tfpipe.settings import Config, PreprocessingConfig
from tfpipe.tasks.multi_label import MultiLabel
from tfpipe.tasks.single_label import SingleLabel
from tfpipe.tasks.tagging import Tagging
from tfpipe.tasks.task import Task
from tfpipe.text import tokenizer as tokenizers
from tfpipe.text.tokenizer import SavedTokenizer, Tokenizer, open_saved

# Between a decoded image and the network's rows, in order.
IMAGE_LAYERS = ("resize", "augmentation", "rescale", "normalization")


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
    """What a saved model is made of.

    Attributes:
        model: The whole, from decoded images or token ids to probabilities.
        network: Rows to logits.
        task: What the logits are.
    """

    model: keras.Model
    network: keras.Model
    task: Task

    @property
    def labels(self) -> tuple[str, ...]:
        """Names in the order of the probabilities."""
        return self.task.labels

    @property
    def probabilities(self) -> Probabilities:
        """The last layer."""
        layer: Probabilities = self.model.get_layer("probabilities")
        return layer

    def training_rows(self, rows: Any, draws: Any) -> Any:
        """What the network takes in training, from a reader's rows and draws."""
        return rows

    def inference_rows(self, rows: Any) -> Any:
        """What the network takes else, from a reader's rows."""
        return rows


@dataclass(frozen=True)
class ImageParts(Parts):
    """Of a model of images; a reader's rows are resized images on 0..255."""

    preprocessing: Preprocessing

    def training_rows(self, rows: Any, draws: Any) -> Any:
        return self.preprocessing.normalized(self.preprocessing.augmentation(rows, draws, training=True))

    def inference_rows(self, rows: Any) -> Any:
        return self.preprocessing.normalized(rows)


@dataclass(frozen=True)
class TextParts(Parts):
    """Of a model of texts; rows are padded token ids.

    Attributes:
        saved: From texts to ids.
        max_length: Tokens of a row at most, special ones included.
    """

    saved: SavedTokenizer
    max_length: int

    @property
    def tokenizer(self) -> Tokenizer:
        """From texts to ids."""
        return self.saved.tokenizer

    @property
    def per_token(self) -> bool:
        """Whether each token has probabilities of its own."""
        return len(self.task.output_shape()) == 3

    def inference(self) -> TextInference:
        """What stands before the model and after it, as the service has it."""
        return TextInference(
            self.tokenizer,
            task="token_classification" if self.per_token else "text_classification",
            labels=self.labels,
            multi_label=self.probabilities.multi_label,
            max_length=self.max_length,
        )


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


def assemble(preprocessing: Preprocessing, network: keras.Model, labels: tuple[str, ...]) -> ImageParts:
    """One model from decoded images to probabilities.

    Returns:
        Its input `image` is (B, H, W, 3), uint8 or float32 on 0..255, of any size; its output (B, classes) float32.
    """
    image = keras.Input((None, None, 3), dtype="float32", name="image")
    x = preprocessing.augmentation(preprocessing.resize(image))
    logits = network(preprocessing.normalized(x))
    model = keras.Model(image, Probabilities(labels, name="probabilities")(logits), name="model")
    return ImageParts(model=model, network=network, task=SingleLabel(labels), preprocessing=preprocessing)


def assemble_text(saved: SavedTokenizer, network: keras.Model, task: Task, *, max_length: int) -> TextParts:
    """One model from token ids to probabilities.

    Args:
        saved: The tokenizer.
        network: Token ids to logits.
        task: What the logits are.
        max_length: Tokens of a row at most.

    Returns:
        Its input `tokens` is (B, T) int32, padded with the tokenizer's pad_id; its output float32.
    """
    ids = keras.Input((None,), dtype="int32", name="tokens")
    logits = network(TokenIds(saved.sha256, max_length, name="token_ids")(ids))
    output = Probabilities(task.labels, isinstance(task, MultiLabel), name="probabilities")(logits)
    model = keras.Model(ids, output, name="model")
    return TextParts(model=model, network=network, task=task, saved=saved, max_length=max_length)


def load_model(path: Path) -> Parts:
    """Read a `model.keras` back into its parts; of texts the folder `tokenizer` beside it too.

    Raises:
        ConfigError: Not a file that tfpipe saved.
        BundleError: The tokenizer is missing, was changed, or is another model's.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: expected a model.keras, found no file.")
    model = _read_keras_file(path, where=str(path))
    if any(isinstance(layer, TokenIds) for layer in model.layers):
        return text_parts_of(model, open_saved(path.parent / tokenizers.FOLDER), where=str(path))
    return parts_of(model, where=str(path))


def load_image_model(path: Path) -> ImageParts:
    """Read the `model.keras` of a task of images.

    Raises:
        ConfigError: Not a file that tfpipe saved, or a model of texts.
    """
    parts = load_model(path)
    if not isinstance(parts, ImageParts):
        raise ConfigError(f"{path}: expected a model of images, received one of texts.")
    return parts


def parts_of(model: keras.Model, *, where: str) -> ImageParts:
    """Take a saved model of images apart again.

    Raises:
        ConfigError: It lacks one of our layers; `where` names it in the message.
    """
    layers = _own_layers(model, IMAGE_LAYERS, where=where)
    preprocessing = Preprocessing(*(layers[name] for name in IMAGE_LAYERS))
    return ImageParts(model, layers["network"], SingleLabel(layers["probabilities"].labels), preprocessing)


def text_parts_of(model: keras.Model, saved: SavedTokenizer, *, where: str) -> TextParts:
    """Take a saved model of texts apart again.

    Raises:
        ConfigError: It lacks one of our layers; `where` names it in the message.
        BundleError: The tokenizer is another model's.
    """
    layers = _own_layers(model, ("token_ids",), where=where)
    tokens, probabilities = layers["token_ids"], layers["probabilities"]
    if saved.sha256 != tokens.tokenizer:
        raise BundleError(
            f"{where}: expected the tokenizer that it was trained with ({tokens.tokenizer[:12]}…), received another "
            f"({saved.sha256[:12]}…)."
        )
    per_token = len(layers["network"].output_shape) == 3
    task: Task = Tagging(probabilities.labels) if per_token else SingleLabel(probabilities.labels)
    if probabilities.multi_label:
        task = MultiLabel(probabilities.labels)
    return TextParts(model, layers["network"], task, saved, tokens.max_length)


def _own_layers(model: keras.Model, names: Sequence[str], *, where: str) -> dict[str, Any]:
    layers = {layer.name: layer for layer in model.layers}
    if missing := [name for name in (*names, "network", "probabilities") if name not in layers]:
        raise ConfigError(f"{where}: expected a model that tfpipe saved, but it lacks the layers {', '.join(missing)}.")
    return layers


def _read_keras_file(path: Path, *, where: str) -> keras.Model:
    try:
        _import_layers_of(path)
        return keras.saving.load_model(path, compile=False)
    except (ValueError, OSError, TypeError, KeyError, zipfile.BadZipFile) as error:
        raise ConfigError(
            f"{where}: expected a model.keras, received a file that Keras cannot load: {_first_line(error)}"
        ) from error


def _import_layers_of(path: Path) -> None:
    """Keras finds the layers of a package by name once it was imported; keras-nlp takes seconds, so only where needed.

    Raises:
        zipfile.BadZipFile: Not a .keras file.
        KeyError: It holds no configuration.
    """
    with zipfile.ZipFile(path) as archive:
        if b"keras_hub" in archive.read("config.json"):
            importlib.import_module("keras_hub")


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
