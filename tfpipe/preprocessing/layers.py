"""Keras layers of ours; they ship inside the model.

Shape legend: B batch, H height, W width, C channels, K random draws, N classes.
"""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

# Draws that `Augmentation` takes for each image, in this order.
DRAWS = (
    "horizontal_flip",
    "vertical_flip",
    "quarter_turns",
    "rotation",
    "zoom",
    "translation_y",
    "translation_x",
    "contrast",
    "brightness",
)


@keras.saving.register_keras_serializable(package="tfpipe")
class Resize(keras.layers.Layer):
    """Bring images of any size to one size, as float32.

    Unlike keras.layers.Resizing it takes no `training` argument: a model that holds Keras's own and is called without
    `training=` runs its later BatchNormalization and Dropout in training mode (Keras 3.6 to 3.15).

    Args:
        height: Target height in pixels.
        width: Target width in pixels.
        mode: "stretch", "crop" (largest centred part of the target's aspect ratio) or "pad" (black borders).
        interpolation: "bilinear", "nearest" or "bicubic".
        antialias: Low-pass filter when shrinking.
    """

    def __init__(
        self,
        height: int,
        width: int,
        *,
        mode: str = "stretch",
        interpolation: str = "bilinear",
        antialias: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.height, self.width = height, width
        self.mode, self.interpolation, self.antialias = mode, interpolation, antialias

    def call(self, images_BHWC: Any) -> Any:
        """(B, H, W, C) of any numeric dtype -> (B, height, width, C) float32, on the scale of the input."""
        # Resizing uint8 rounds when eager and not in a graph.
        return ops.image.resize(
            ops.cast(images_BHWC, "float32"),
            (self.height, self.width),
            interpolation=self.interpolation,
            antialias=self.antialias,
            crop_to_aspect_ratio=self.mode == "crop",
            pad_to_aspect_ratio=self.mode == "pad",
            data_format="channels_last",
        )

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        """(B, H, W, C) -> (B, height, width, C)."""
        return (input_shape[0], self.height, self.width, input_shape[-1])

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {
            **super().get_config(),
            "height": self.height,
            "width": self.width,
            "mode": self.mode,
            "interpolation": self.interpolation,
            "antialias": self.antialias,
        }


@keras.saving.register_keras_serializable(package="tfpipe")
class Augmentation(keras.layers.Layer):
    """Random flips, turns, rotation, zoom, translation, contrast and brightness, from draws that the caller gives.

    It holds no random state: the draws of a sample are a function of (seed, epoch, sample), so that any number of
    workers, and a resumed run, change a sample alike. Without `training=True` it is the identity.

    Args:
        horizontal_flip: Mirror left to right, half of the time.
        vertical_flip: Mirror top to bottom, half of the time.
        quarter_turns: Turn by a multiple of 90 degrees; square images only.
        rotation: Largest rotation in degrees.
        zoom: Largest change of scale, as a share.
        translation: Largest shift, as a share of height and width.
        contrast: Largest change of contrast, as a share.
        brightness: Largest change of brightness, as a share of 255.
    """

    def __init__(
        self,
        *,
        horizontal_flip: bool = False,
        vertical_flip: bool = False,
        quarter_turns: bool = False,
        rotation: float = 0.0,
        zoom: float = 0.0,
        translation: float = 0.0,
        contrast: float = 0.0,
        brightness: float = 0.0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.horizontal_flip, self.vertical_flip, self.quarter_turns = horizontal_flip, vertical_flip, quarter_turns
        self.rotation, self.zoom, self.translation = rotation, zoom, translation
        self.contrast, self.brightness = contrast, brightness

    @property
    def moves(self) -> bool:
        """Whether any geometric change is asked for."""
        return bool(
            self.horizontal_flip
            or self.vertical_flip
            or self.quarter_turns
            or self.rotation
            or self.zoom
            or self.translation
        )

    @property
    def active(self) -> bool:
        """Whether any change is asked for."""
        return self.moves or bool(self.contrast or self.brightness)

    def call(self, images_BHWC: Any, draws_BK: Any = None, training: bool = False) -> Any:
        """Change images on a scale of 0..255.

        Args:
            images_BHWC: (B, H, W, C) float32.
            draws_BK: (B, len(DRAWS)) float32 in [0, 1); needed when training.
            training: False gives the images back as they are.
        """
        if not training or draws_BK is None or not self.active:
            return images_BHWC
        draw = {name: draws_BK[:, position] for position, name in enumerate(DRAWS)}
        changed = images_BHWC
        if self.moves:
            # Beyond the edge the nearest pixel: a black border would be a feature of its own.
            changed = ops.image.affine_transform(
                changed,
                self._transforms(draw, ops.shape(changed)),
                interpolation="bilinear",
                fill_mode="nearest",
                data_format="channels_last",
            )
        if self.contrast:
            factor = _around(draw["contrast"], 1.0, self.contrast)[:, None, None, None]
            mean = ops.mean(changed, axis=(1, 2, 3), keepdims=True)
            changed = (changed - mean) * factor + mean
        if self.brightness:
            changed = changed + 255.0 * _around(draw["brightness"], 0.0, self.brightness)[:, None, None, None]
        return ops.clip(changed, 0.0, 255.0)

    def _transforms(self, draw: dict[str, Any], shape: Sequence[Any]) -> Any:
        """(B, 8) projective coefficients that map output to input coordinates, about the centre of the image."""
        height, width = ops.cast(shape[1], "float32"), ops.cast(shape[2], "float32")
        flip_x = ops.where(draw["horizontal_flip"] < 0.5, -1.0, 1.0) if self.horizontal_flip else 1.0
        flip_y = ops.where(draw["vertical_flip"] < 0.5, -1.0, 1.0) if self.vertical_flip else 1.0
        angle = _around(draw["rotation"], 0.0, self.rotation * 3.141592653589793 / 180.0)
        if self.quarter_turns:
            angle = angle + ops.floor(draw["quarter_turns"] * 4.0) * (3.141592653589793 / 2.0)
        scale = 1.0 / _around(draw["zoom"], 1.0, self.zoom)
        a, b = ops.cos(angle) * scale * flip_x, -ops.sin(angle) * scale * flip_y
        c, d = ops.sin(angle) * scale * flip_x, ops.cos(angle) * scale * flip_y
        centre_x, centre_y = (width - 1.0) / 2.0, (height - 1.0) / 2.0
        # Where the centre of the output falls in the input.
        target_x = centre_x - _around(draw["translation_x"], 0.0, self.translation) * width
        target_y = centre_y - _around(draw["translation_y"], 0.0, self.translation) * height
        shift_x = target_x - a * centre_x - b * centre_y
        shift_y = target_y - c * centre_x - d * centre_y
        zeros = ops.zeros_like(angle)
        return ops.stack([a, b, shift_x, c, d, shift_y, zeros, zeros], axis=1)

    def compute_output_shape(self, input_shape: Any, *_: Any) -> Any:
        """The shape of the images."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        names = (
            "horizontal_flip", "vertical_flip", "quarter_turns", "rotation", "zoom", "translation", "contrast",
            "brightness",
        )  # fmt: skip
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable(package="tfpipe")
class Probabilities(keras.layers.Layer):
    """Softmax in float32, or sigmoid; holds the class names, so that a saved model knows them.

    Args:
        labels: Class names in the order of the logits.
        multi_label: Whether a sample may have several labels, or none: each probability is then one by itself.
    """

    def __init__(self, labels: Sequence[str], multi_label: bool = False, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.labels = tuple(labels)
        self.multi_label = multi_label

    def call(self, logits: Any) -> Any:
        """(B, N) logits, or (B, T, N) of words -> float32 probabilities of the same shape."""
        logits = ops.cast(logits, "float32")
        return ops.sigmoid(logits) if self.multi_label else ops.softmax(logits, axis=-1)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The shape of the logits."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {**super().get_config(), "labels": list(self.labels), "multi_label": self.multi_label}


def _around(draw: Any, centre: float, spread: float) -> Any:
    """Map [0, 1) uniformly onto [centre - spread, centre + spread)."""
    return centre + spread * (2.0 * draw - 1.0)
