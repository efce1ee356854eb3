"""Image models by name. To add one: a function, and a line in `MODELS`.

A builder takes (input_shape, num_classes, config) and gives a Keras model from float32 rows (B, height, width, 3) to
logits (B, num_classes), as a function named by `model.name: package.module:function` does.
"""

import difflib
import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import keras

from tfpipe.core.errors import ConfigError
from tfpipe.settings import Config

T = TypeVar("T")

# Small data sets have a few dozen steps an epoch: Keras's 0.99 would keep the initial statistics for several epochs.
_BN_MOMENTUM = 0.9

Builder = Callable[[tuple[int, int, int], int, Config], keras.Model]


@dataclass(frozen=True)
class Normalization:
    """Mean and standard deviation per channel, on a scale of 0..1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


# Source: statistics of the ILSVRC-2012 training set, as torchvision and keras.applications have them.
IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# Rows on a scale of 0..255: EfficientNet and MobileNetV3 of keras.applications scale for themselves.
UNSCALED = Normalization((0.0,), (1 / 255,))
# What keras.applications' ResNet weights were trained with (Caffe): 0..255 less the mean colour; BGR is done inside.
CAFFE = Normalization((123.68 / 255, 116.779 / 255, 103.939 / 255), (1 / 255,))


@dataclass(frozen=True)
class Entry:
    """A model by name.

    Attributes:
        build: Makes it.
        normalization: What goes with it; None where it is adapted to the training data.
        pretrained: Whether `model.weights: imagenet` means something to it.
    """

    build: Builder
    normalization: Normalization | None = None
    pretrained: bool = False


def small_cnn(input_shape: tuple[int, int, int], num_classes: int, config: Config) -> keras.Model:
    """Three pairs of 3x3 convolutions with batch normalisation, for images of up to about 64 pixels."""
    inputs = keras.Input(input_shape, name="rows")
    x = inputs
    for stage, filters in enumerate((32, 64, 128)):
        for half in "ab":
            x = keras.layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"conv{stage}{half}")(x)
            x = keras.layers.BatchNormalization(momentum=_BN_MOMENTUM, name=f"bn{stage}{half}")(x)
            x = keras.layers.ReLU(name=f"relu{stage}{half}")(x)
        if stage < 2 and min(x.shape[1], x.shape[2]) >= 2:
            x = keras.layers.MaxPooling2D(name=f"pool{stage}")(x)
    return _with_head(inputs, keras.layers.GlobalAveragePooling2D(name="pool")(x), num_classes, config)


def mlp(input_shape: tuple[int, int, int], num_classes: int, config: Config) -> keras.Model:
    """Two dense layers without batch normalisation: the same result on any number of workers."""
    inputs = keras.Input(input_shape, name="rows")
    x = keras.layers.Flatten(name="flatten")(inputs)
    for width in (128, 64):
        x = keras.layers.Dense(width, activation="relu", name=f"dense{width}")(x)
    return _with_head(inputs, x, num_classes, config)


def application(
    family: str, input_shape: tuple[int, int, int], num_classes: int, config: Config, **options: Any
) -> keras.Model:
    """A network of keras.applications by class name, with a head of ours.

    Raises:
        ConfigError: Its weights cannot be fetched, or the image is too small for it.
    """
    inputs = keras.Input(input_shape, name="rows")
    pretrained = config.model.weights == "imagenet"
    x = inputs
    if pretrained and family.startswith("ResNet"):
        # The published weights expect BGR.
        x = keras.ops.flip(x, axis=-1)
    try:
        backbone = getattr(keras.applications, family)(
            include_top=False,
            weights="imagenet" if pretrained else None,
            input_tensor=x,
            input_shape=input_shape,
            pooling="avg",
            **options,
        )
    except ValueError as error:
        raise ConfigError(f"preprocessing.image_size: {family} refuses {list(input_shape[:2])}: {error}") from error
    # keras.utils.get_file raises a bare Exception where the address cannot be reached.
    except Exception as error:
        raise ConfigError(
            f"model.weights: expected to fetch the imagenet weights of {family}, but: {error}. "
            "Where there is no network, give a local .keras or .weights.h5 file, or `random`."
        ) from error
    return _with_head(inputs, backbone.output, num_classes, config)


def _with_head(inputs: Any, features: Any, num_classes: int, config: Config) -> keras.Model:
    if config.model.dropout:
        features = keras.layers.Dropout(config.model.dropout, name="head_dropout", seed=config.training.seed)(features)
    # float32: the loss of half-precision logits overflows.
    logits = keras.layers.Dense(num_classes, dtype="float32", name="logits")(features)
    return keras.Model(inputs, logits, name="network")


def _application(family: str, normalization: Normalization, **options: Any) -> Entry:
    return Entry(partial(application, family, **options), normalization, pretrained=True)


MODELS: dict[str, Entry] = {
    "small_cnn": Entry(small_cnn),
    "mlp": Entry(mlp),
    "resnet50": _application("ResNet50", CAFFE),
    "resnet101": _application("ResNet101", CAFFE),
    **{f"efficientnet_b{n}": _application(f"EfficientNetB{n}", UNSCALED) for n in range(8)},
    **{f"efficientnet_v2_b{n}": _application(f"EfficientNetV2B{n}", UNSCALED) for n in range(4)},
    "efficientnet_v2_s": _application("EfficientNetV2S", UNSCALED),
    "efficientnet_v2_m": _application("EfficientNetV2M", UNSCALED),
    "efficientnet_v2_l": _application("EfficientNetV2L", UNSCALED),
    "mobilenet_v3_small": _application("MobileNetV3Small", UNSCALED),
    "mobilenet_v3_large": _application("MobileNetV3Large", UNSCALED),
}


def find_model(name: str) -> Entry:
    """The entry of `MODELS`, or a user's own function.

    Raises:
        ConfigError: Unknown name (says the nearest), or a function that cannot be imported.
    """
    if ":" in name:
        # What it makes of model.weights is its own affair.
        return Entry(import_function(name, key="model.name"), pretrained=True)
    if name not in MODELS:
        # Here, for it takes seconds to import, and imports this module.
        from tfpipe.models.text_zoo import TEXT_MODELS

        if name in TEXT_MODELS:
            raise ConfigError(
                f"model.name: expected a model of images (such as {', '.join(list(MODELS)[:3])}), received {name!r}, a "
                "model of texts."
            )
        close = difflib.get_close_matches(name, MODELS, n=1)
        hint = f"Did you mean {close[0]!r}?" if close else f"Known: {', '.join(MODELS)}, or package.module:function."
        raise ConfigError(f"model.name: unknown model {name!r}. {hint}")
    return MODELS[name]


def import_function(name: str, *, key: str) -> Callable[..., Any]:
    """Import `package.module:function`, the current folder included.

    Raises:
        ConfigError: The module or the function is not there; `key` names the setting.
    """
    module_name, _, function_name = name.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"{key}: expected package.module:function that can be imported, received {name!r}: {error}."
        ) from error
    if not callable(function):
        raise ConfigError(f"{key}: expected a function, but {name!r} is {type(function).__name__}.")
    return function  # type: ignore[no-any-return]  # callable() told


def make(given: Callable[..., Any], kind: type[T], *, name: str, key: str) -> T:
    """Call a user's class or function without arguments for a Keras object.

    Args:
        given: As `import_function` gives it.
        kind: What it should make.
        name: As the user wrote it.
        key: The setting.

    Raises:
        ConfigError: The call fails, or gives something else.
    """
    what = kind.__name__.lower()
    try:
        made = given()
    # Whatever the user's code may raise.
    except Exception as error:
        raise ConfigError(
            f"{key}: expected {name!r} to be called without arguments: {type(error).__name__}: {error}. "
            f"Name a function that makes the {what}."
        ) from error
    if not isinstance(made, kind):
        raise ConfigError(f"{key}: expected {name!r} to give a Keras {what}, received {made!r}.")
    return made
