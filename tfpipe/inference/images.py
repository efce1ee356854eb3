"""Images: decoded by the one decoder, and brought to rows by the model's own preprocessing."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from tfpipe.core.errors import DecodeError, InputTooLargeError
from tfpipe.core.postprocess import classification_answer
from tfpipe.core.signature import Array
from tfpipe.decode import MAX_IMAGE_PIXELS, decode_image, image_header
from tfpipe.inference.interface import Prepared


class ImageInference:
    """An `Inference` of image classification.

    Args:
        preprocess: (height, width, 3) uint8 of any size -> a row, float32 without the batch's axis.
        labels: Class names in the order of the model's output.
        max_pixels: Larger images are refused by their header.
    """

    takes: Literal["image"] = "image"
    lengths = (1,)

    def __init__(
        self, preprocess: Callable[[Array], Array], labels: Sequence[str], *, max_pixels: int = MAX_IMAGE_PIXELS
    ) -> None:
        self.labels = tuple(labels)
        self._preprocess, self._max_pixels = preprocess, max_pixels

    def decode(self, content: bytes | str) -> Array:
        """See `Inference.decode`."""
        if isinstance(content, str):
            raise DecodeError("image: expected an image file, which this model takes; received text.")
        try:
            return decode_image(content, max_pixels=self._max_pixels)
        except DecodeError:
            # Both an image that is too large and one that is no image fail to decode; the header tells them apart.
            height, width = _size_or_zero(content)
            if height * width > self._max_pixels:
                raise InputTooLargeError(
                    f"image: expected at most {self._max_pixels} pixels, received {width} x {height}.",
                    expected_pixels=self._max_pixels,
                    received_pixels=height * width,
                ) from None
            raise

    def prepare(self, sample: Array) -> Prepared:
        """See `Inference.prepare`."""
        return Prepared((self._preprocess(sample),), self.answer_row)

    def answer_row(self, probabilities: Sequence[Array]) -> dict[str, Any]:
        """The answer to one row, also to one that a client made itself: its probabilities, (classes,)."""
        return classification_answer(probabilities[0], self.labels)

    def padded_length(self, row: Array) -> int:
        """See `Inference.padded_length`."""
        return 1

    def batch(self, rows: Sequence[Array]) -> Array:
        """See `Inference.batch`; (batch, height, width, channels) float32."""
        return rows[0][None] if len(rows) == 1 else np.stack(rows)

    def cut(self, probabilities: Array, rows: Sequence[Array]) -> list[Array]:
        """See `Inference.cut`; (classes,) each."""
        return list(probabilities)


def is_sample(array: Array) -> bool:
    """Whether an array is the pixels of an image rather than a row, which is float32."""
    return array.dtype == np.uint8


def _size_or_zero(content: bytes) -> tuple[int, int]:
    try:
        return image_header(content)[2]
    except DecodeError:
        return 0, 0
