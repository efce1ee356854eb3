"""An image classifier that was trained elsewhere -> the parts that conversion takes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import keras
import numpy as np
import tensorflow as tf

from tfpipe.convert.foreign_settings import ForeignConfig, ForeignPreprocessingConfig
from tfpipe.core.errors import ConfigError
from tfpipe.core.parity import BOUNDS, assert_parity
from tfpipe.core.signature import Array
from tfpipe.models.assembly import ImageParts, Preprocessing, build_preprocessing
from tfpipe.models.foreign_layers import Answers, ClassProbabilities, ModelRows
from tfpipe.models.zoo import IMAGENET, Normalization
from tfpipe.settings import PreprocessingConfig
from tfpipe.tasks.single_label import SingleLabel

# Layers of Keras that change pixels, or do nothing when a model answers.
_OF_PIXELS = (
    "InputLayer", "Resizing", "CenterCrop", "Rescaling", "Normalization", "Dropout", "Reshape", "Cast", "Identity",
)  # fmt: skip
# Values 0..1 stay, 0..255 come out as they are: (x / 255 - 0) / (1 / 255).
_AS_THEY_ARE = {"raw": Normalization((0.0,), (1 / 255,)), "none": Normalization((0.0,), (1.0,)), "imagenet": IMAGENET}
_PROBES = 16
_ASK = "Say it: preprocessing.normalization=raw (0..255), none (0..1), imagenet, or fixed with mean and std."


@dataclass(frozen=True)
class Classifier:
    """A foreign classifier, understood.

    Attributes:
        parts: From pixels to probabilities; Keras's own model is the network.
        preprocessing: What stands before it.
        notes: What was found inside the model, a sentence each.
    """

    parts: ImageParts
    preprocessing: PreprocessingConfig
    notes: tuple[str, ...]


def is_image_classifier(model: keras.Model) -> bool:
    """Whether a model has one input of images and one output of classes."""
    inputs, outputs = _shapes(model, "input"), _shapes(model, "output")
    if len(inputs) != 1 or len(outputs) != 1:
        return False
    taken, given = inputs[0], outputs[0]
    return len(taken) == 4 and taken[0] is None and taken[-1] in (1, 3) and len(given) == 2


def understand_classifier(model: keras.Model, config: ForeignConfig, data_labels: Sequence[str] | None) -> Classifier:
    """Put our preprocessing before a classifier and probabilities after it.

    Args:
        model: Under float32 policies.
        config: What is said of it.
        data_labels: Classes of the data that were given; None: none were.

    Raises:
        ConfigError: No classifier of images, or something has to be said that is not found inside it.
        GateError: With what stands around it it answers differently.
    """
    if not is_image_classifier(model):
        raise ConfigError(
            "task image_classification: expected a model of one input (batch, height, width, 3 or 1) and one output "
            f"(batch, classes), received {_told(model, 'input')} -> {_told(model, 'output')}. task=tensor takes any."
        )
    notes: list[str] = []
    preprocessing = _preprocessing(model, config.preprocessing, notes)
    normalization = Normalization(preprocessing.mean or (0.0,), preprocessing.std or (1.0,))
    network = _network(model, preprocessing)
    answers = _answers(model, network, config.output, notes)
    labels = _labels(config, data_labels, network.output_shape[-1], notes)
    parts = _assemble(build_preprocessing(preprocessing, normalization), network, labels, answers)
    _check_answers(model, parts)
    return Classifier(parts, preprocessing, tuple(notes))


def _preprocessing(model: keras.Model, given: ForeignPreprocessingConfig, notes: list[str]) -> PreprocessingConfig:
    first = list(_first_layers(model))
    kind: str = given.normalization
    if kind == "auto":
        kind, reason = _range_taken(model, first)
        notes.append(f"The model takes values {'0..255' if kind == 'raw' else '0..1'}: {reason}.")
    normalization = Normalization(given.mean or (0.0,), given.std or (1.0,)) if kind == "fixed" else _AS_THEY_ARE[kind]
    if model.inputs[0].shape[-1] == 1:
        notes.append("The model takes one channel: grey is 0.299 R + 0.587 G + 0.114 B.")
    return PreprocessingConfig(
        image_size=given.image_size or _size(model, first),
        resize=given.resize,
        interpolation=given.interpolation,
        antialias=given.antialias,
        normalization="fixed",
        mean=tuple(normalization.mean),
        std=tuple(normalization.std),
    )


def _first_layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """The layers before the first that computes with pixels of different places or channels."""
    for layer in _leaves(model):
        name = type(layer).__name__
        if name not in _OF_PIXELS and not name.startswith("Random"):
            return
        yield layer


def _leaves(model: keras.Model) -> Iterator[keras.layers.Layer]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _leaves(layer)
        else:
            yield layer


def _range_taken(model: keras.Model, first: Sequence[keras.layers.Layer]) -> tuple[str, str]:
    """Which values a model takes, as its own first layers show, and why."""
    if "float" not in model.inputs[0].dtype:
        return "raw", f"its input is {model.inputs[0].dtype}"
    for layer in first:
        if isinstance(layer, keras.layers.Rescaling):
            largest = float(np.max(np.abs(np.asarray(layer.scale))))
            # 1/255 and 1/127.5 on the one side, 1 and 2 on the other.
            return ("raw" if largest < 0.1 else "none"), f"it holds Rescaling({largest:.4g})"
        if isinstance(layer, keras.layers.Normalization):
            largest = float(np.max(np.asarray(layer.mean)))
            # The mean of pictures on a scale of 0..1 is below 1; on one of 0..255 it is far above.
            return ("raw" if largest > 1 else "none"), f"it holds Normalization with mean {largest:.4g}"
    raise ConfigError(
        "preprocessing.normalization: expected to find which values the model takes, but it begins with no "
        f"Rescaling or Normalization layer. {_ASK}"
    )


def _size(model: keras.Model, first: Sequence[keras.layers.Layer]) -> tuple[int, int]:
    height, width = model.inputs[0].shape[1:3]
    if height and width:
        return height, width
    for layer in first:
        if isinstance(layer, keras.layers.Resizing | keras.layers.CenterCrop):
            return layer.height, layer.width
    raise ConfigError(
        "preprocessing.image_size: expected [height, width], as the model takes images of any size; rows of a batch "
        "must have one. Say it: preprocessing.image_size=[224,224]."
    )


def _network(model: keras.Model, preprocessing: PreprocessingConfig) -> keras.Model:
    rows = keras.Input((*preprocessing.image_size, 3), dtype="float32", name="rows")
    taken = ModelRows(model.inputs[0].shape[-1], model.inputs[0].dtype, name="model_rows")(rows)
    (answers,) = keras.tree.flatten(model(taken))
    return keras.Model(rows, answers, name="network")


def _answers(model: keras.Model, network: keras.Model, given: str, notes: list[str]) -> Answers:
    single = network.output_shape[-1] == 1
    kind = given
    if kind == "auto":
        kind, reason = _kind_of_answers(model, network)
        notes.append(f"It gives {kind}: {reason}.")
    if single:
        return "probability" if kind == "probabilities" else "logit"
    return "probabilities" if kind == "probabilities" else "logits"


def _kind_of_answers(model: keras.Model, network: keras.Model) -> tuple[str, str]:
    units = network.output_shape[-1]
    activation = _last_activation(model)
    if units == 1 and activation in ("sigmoid", "linear"):
        return ("probabilities" if activation == "sigmoid" else "logits"), f"its last activation is {activation}"
    if units > 1 and activation in ("softmax", "linear"):
        return ("probabilities" if activation == "softmax" else "logits"), f"its last activation is {activation}"
    answers = network.predict(_probes(network), verbose=0)
    between = bool(np.all((answers >= 0) & (answers <= 1)))
    sums_to_one = bool(np.allclose(answers.sum(axis=-1), 1.0, atol=1e-3))
    if between and (sums_to_one or units == 1):
        return "probabilities", f"{_PROBES} random images are answered so"
    if between:
        raise ConfigError(
            "task image_classification: expected one class an image, but the model's answers lie in 0..1 and do not "
            "add up to 1, as where an image may have several. Convert it with task=tensor."
        )
    return "logits", f"{_PROBES} random images are answered so"


def _last_activation(model: keras.Model) -> str:
    """Name of the function that gives the answers; "" where it is not seen."""
    try:
        layer = model.outputs[0]._keras_history.operation
    except (AttributeError, TypeError):
        return ""
    if isinstance(layer, keras.Model):
        return _last_activation(layer)
    if isinstance(layer, keras.layers.Softmax):
        return "softmax"
    return str(getattr(getattr(layer, "activation", None), "__name__", ""))


def _labels(config: ForeignConfig, of_data: Sequence[str] | None, units: int, notes: list[str]) -> tuple[str, ...]:
    expected = 2 if units == 1 else units
    if config.labels is not None:
        if len(config.labels) != expected:
            raise ConfigError(f"labels: expected {expected}, as the model answers, received {len(config.labels)}.")
        return tuple(config.labels)
    if of_data is not None:
        if len(of_data) != expected:
            raise ConfigError(
                f"labels: expected {expected}, as the model answers; the data have {len(of_data)}: {list(of_data)}. "
                "Give labels=[...] in the order of the model's output."
            )
        notes.append("Labels are the classes of the data in sorted order; where training had another, give labels.")
        return tuple(of_data)
    notes.append("Labels are the classes' numbers: give labels to have names.")
    return tuple(str(number) for number in range(expected))


def _assemble(
    preprocessing: Preprocessing, network: keras.Model, labels: tuple[str, ...], answers: Answers
) -> ImageParts:
    image = keras.Input((None, None, 3), dtype="float32", name="image")
    given = network(preprocessing.normalized(preprocessing.resize(image)))
    model = keras.Model(image, ClassProbabilities(labels, answers, name="probabilities")(given), name="model")
    return ImageParts(model=model, network=network, task=SingleLabel(labels), preprocessing=preprocessing)


def _check_answers(model: keras.Model, parts: ImageParts) -> None:
    """What `predict` of the foreign model gives, which is right whatever its layers do with `training`."""
    probes = _probes(parts.network)
    taken = parts.network.get_layer("model_rows")(probes)
    expected = keras.tree.flatten(model.predict(np.asarray(taken), verbose=0))[0]
    # In a graph and with training=False, as every converted form is made.
    answers = tf.function(lambda rows: parts.network(rows, training=False), autograph=False)(tf.constant(probes))
    last = parts.probabilities
    assert_parity(np.asarray(last(answers)), np.asarray(last(expected)), BOUNDS["fp32"], where="Keras -> our parts")


def _probes(network: keras.Model) -> Array:
    height, width = network.input_shape[1:3]
    return np.random.default_rng(0).integers(0, 256, (_PROBES, height, width, 3)).astype(np.float32)


def _shapes(model: keras.Model, which: str) -> list[tuple[int | None, ...]]:
    """Shapes of every input or output; none where the model does not say them."""
    try:
        return [tuple(tensor.shape) for tensor in getattr(model, f"{which}s")]
    except (AttributeError, TypeError, ValueError):
        return []


def _told(model: keras.Model, which: str) -> str:
    return ", ".join(str(shape) for shape in _shapes(model, which)) or "an unknown shape"
