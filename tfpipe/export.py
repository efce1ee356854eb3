"""Trained model -> float32 model and SavedModel for TensorFlow Serving."""

import copy
import errno
import functools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfpipe.core.errors import ConversionError
from tfpipe.core.parity import BOUNDS, assert_parity
from tfpipe.core.signature import Array
from tfpipe.models.assembly import (
    ImageParts,
    Parts,
    Preprocessing,
    TextParts,
    load_model,
    parts_of,
    text_parts_of,
)
from tfpipe.settings import PreprocessingConfig

# What the raw-bytes signature cannot do, as TensorFlow's own decoders are all it has.
SAVED_MODEL_LIMITS = (
    "`serving_default` decodes upright 8-bit JPEG, PNG, BMP (24 bits) and GIF (first frame); it does not apply EXIF "
    "orientation, reads CMYK and 16-bit files as TensorFlow does, and refuses WebP. Send `pixels` for anything else."
)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LAYERS = ("resize", "augmentation", "rescale", "normalization")
_HALF = ("float16", "bfloat16", "mixed_float16", "mixed_bfloat16")


class KerasReference:
    """The answers of the trained model itself, which every converted form is compared with.

    Graph functions, as `predict()` and training have them: eager, Keras's aspect-preserving resizing can come out one
    pixel off, as TensorFlow's graph optimiser divides by multiplying.

    Args:
        parts: The trained model.
    """

    def __init__(self, parts: ImageParts) -> None:
        height, width = parts.preprocessing.resize.height, parts.preprocessing.resize.width
        probabilities = parts.model.get_layer("probabilities")
        self._whole = tf.function(
            lambda image: parts.model(image, training=False),
            input_signature=[tf.TensorSpec((None, None, None, 3), tf.uint8)],
            autograph=False,
        )
        self._rows = tf.function(
            lambda image: parts.preprocessing.rows(image),
            input_signature=[tf.TensorSpec((None, None, None, 3), tf.uint8)],
            autograph=False,
        )
        self._network = tf.function(
            lambda rows: probabilities(parts.network(rows, training=False)),
            input_signature=[tf.TensorSpec((None, height, width, 3), tf.float32)],
            autograph=False,
        )

    def probabilities(self, pixels: Array) -> Array:
        """(H, W, 3) uint8 -> (classes,) float32."""
        return np.asarray(self._whole(pixels[None])[0])

    def rows(self, pixels: Array) -> Array:
        """(H, W, 3) uint8 -> (height, width, 3) float32."""
        return np.asarray(self._rows(pixels[None])[0])

    def probabilities_of_rows(self, rows: Array) -> Array:
        """(B, height, width, 3) float32 -> (B, classes) float32."""
        return np.asarray(self._network(rows))


def load_float32(path: Path) -> tuple[Parts, str]:
    """Read a `model.keras`; one trained with mixed precision is rebuilt under float32 policies with the same weights.

    Returns:
        The model, and the policy that it was trained with.

    Raises:
        ConfigError: Not a file that tfpipe saved.
        BundleError: The tokenizer of a model of texts is missing or another's.
        ConversionError: The weights do not fit the rebuilt model.
        GateError: The rebuilt model answers differently.
    """
    parts = load_model(path)
    policies = {layer.dtype_policy.name for layer in parts.network.layers} & set(_HALF)
    if not policies:
        return parts, "float32"
    policy, model = policies.pop(), under_float32(parts.model)
    rebuilt: Parts
    if isinstance(parts, TextParts):
        rebuilt = text_parts_of(model, parts.saved, where=str(path))
    else:
        rebuilt = parts_of(model, where=str(path))
    _check_rebuilt(parts, rebuilt, policy)
    return rebuilt, policy


def export_saved_model(parts: ImageParts, folder: Path) -> None:
    """Write a SavedModel with the signatures `serving_default` (`image_bytes`), `pixels` and `tensor` (`input`).

    All give `probabilities` float32 (B, classes), `label` string (B,) and `score` float32 (B,). Not by model.export():
    it traces the model in training mode where a layer asks for `training`, and would store every weight twice.

    Args:
        parts: The trained model, under float32 policies.
        folder: Made; TensorFlow Serving wants its name to be a number.

    Raises:
        ConversionError: The folder cannot be written.
    """
    save_signatures(parts, _signatures(parts), folder)


def save_signatures(parts: Parts, signatures: Mapping[str, Any], folder: Path, **held: Any) -> None:
    """Write functions as a SavedModel that holds each of the model's weights once.

    Args:
        parts: The trained model.
        signatures: Traced functions by the name that clients give.
        folder: Made.
        held: What else the functions need: layers with tables.

    Raises:
        ConversionError: The folder cannot be written.
        OSError: The disk is full.
    """
    module = tf.Module()
    module.tracked, module.held = [variable.value for variable in parts.model.variables], held
    save_module(module, folder, signatures)


def save_module(module: tf.Module, folder: Path, signatures: Mapping[str, Any]) -> None:
    """Write a SavedModel.

    Raises:
        ConversionError: The folder cannot be written.
        OSError: The disk is full.
    """
    try:
        tf.saved_model.save(module, str(folder), signatures=signatures)
    except tf.errors.OpError as error:
        said = str(error).splitlines()[0]
        for number in _FULL:
            # TensorFlow tells it between the names of its own operations and temporary files.
            if os.strerror(number) in said:
                raise OSError(number, os.strerror(number)) from error
        raise ConversionError(f"{folder}: expected to write a SavedModel, but: {said}") from error


def answers_of(parts: Parts, rows: Any) -> dict[str, Any]:
    """What every signature gives for the network's rows."""
    probabilities = parts.probabilities(parts.network(rows, training=False))
    label = tf.gather(tf.constant(parts.labels), tf.argmax(probabilities, axis=-1))
    return {"probabilities": probabilities, "label": label, "score": tf.reduce_max(probabilities, axis=-1)}


def preprocessing_to_json(preprocessing: Preprocessing, config: PreprocessingConfig) -> str:
    """What `preprocessing.json` of a bundle holds: the layers as Keras describes them, and their settings."""
    layers = {name: keras.saving.serialize_keras_object(getattr(preprocessing, name)) for name in _LAYERS}
    document = {"config": config.model_dump(mode="json"), "layers": layers}
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def preprocessing_from_json(text: str) -> tuple[Preprocessing, PreprocessingConfig]:
    """Inverse of `preprocessing_to_json`."""
    document = json.loads(text)
    layers = {name: keras.saving.deserialize_keras_object(document["layers"][name]) for name in _LAYERS}
    return Preprocessing(**layers), PreprocessingConfig.model_validate(document["config"])


def _signatures(parts: ImageParts) -> dict[str, Any]:
    height, width = parts.preprocessing.resize.height, parts.preprocessing.resize.width

    # Argument names are what clients send.
    @tf.function(input_signature=[tf.TensorSpec((None, height, width, 3), tf.float32, "input")], autograph=False)
    def tensor(input: Any) -> dict[str, Any]:
        return answers_of(parts, input)

    @tf.function(input_signature=[tf.TensorSpec((None, None, None, 3), tf.uint8, "pixels")], autograph=False)
    def pixels(pixels: Any) -> Any:
        return tensor(parts.preprocessing.rows(pixels))

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, "image_bytes")], autograph=False)
    def image_bytes(image_bytes: Any) -> Any:
        # Pictures of one request may differ in size, so each is brought to the model's size by itself.
        rows = tf.map_fn(
            lambda content: parts.preprocessing.rows(_decode(content)[None])[0],
            image_bytes,
            fn_output_signature=tf.TensorSpec((height, width, 3), tf.float32),
        )
        return tensor(rows)

    return {"serving_default": image_bytes, "pixels": pixels, "tensor": tensor}


def _decode(content: Any) -> Any:
    """An image file -> (H, W, 3) uint8 with TensorFlow's decoders; JPEG as every other library decodes it."""
    pixels = tf.cond(
        tf.io.is_jpeg(content),
        lambda: tf.io.decode_jpeg(content, channels=3, dct_method="INTEGER_ACCURATE"),
        lambda: tf.io.decode_image(content, channels=3, expand_animations=False),
    )
    return tf.ensure_shape(pixels, (None, None, 3))


def under_float32(model: keras.Model) -> keras.Model:
    """A model of mixed precision rebuilt under float32 policies, with the same weights.

    Raises:
        ConversionError: The weights do not fit the rebuilt model.
    """
    config = _with_float32(copy.deepcopy(model.get_config()))
    rebuilt = type(model).from_config(config)
    try:
        # Mixed policies keep their variables in float32: nothing is rounded.
        rebuilt.set_weights(model.get_weights())
    except ValueError as error:
        raise ConversionError(f"model: its weights do not fit it when rebuilt under float32: {error}") from error
    return rebuilt


def _with_float32(config: Any) -> Any:
    """A Keras config with every half-precision dtype and policy replaced by float32."""
    if isinstance(config, dict):
        return {
            key: "float32" if key in ("dtype", "name") and value in _HALF else _with_float32(value)
            for key, value in config.items()
        }
    if isinstance(config, list | tuple):
        return type(config)(_with_float32(value) for value in config)
    return config


def _check_rebuilt(parts: Parts, rebuilt: Parts, policy: str) -> None:
    random = np.random.default_rng(0)
    inputs: Array
    if isinstance(parts, TextParts):
        inputs = random.integers(0, parts.tokenizer.vocabulary_size, (4, min(parts.max_length, 32)), dtype=np.int32)
    else:
        layer = parts.model.get_layer("resize")
        inputs = random.integers(0, 256, (4, layer.height, layer.width, 3), dtype=np.uint8)
    answers, expected = (
        np.asarray(tf.function(functools.partial(model, training=False), autograph=False)(tf.constant(inputs)))
        for model in (rebuilt.model, parts.model)
    )
    assert_parity(
        answers,
        expected,
        BOUNDS["bf16" if policy.endswith("bfloat16") else "fp16"],
        where=f"Keras {policy} -> Keras float32",
    )
