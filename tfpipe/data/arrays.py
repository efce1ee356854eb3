"""Samples that are held in memory as arrays, and the digits that come with tfpipe."""

import hashlib
from collections.abc import Sequence

import numpy as np

from tfpipe.core.errors import DecodeError

DIGIT_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# Values of scikit-learn's digits run from 0 to 16: counts of set pixels in 4 x 4 blocks.
_DIGITS_MAX = 16


class ArraySource:
    """Images in memory.

    Args:
        images: Each uint8 (height, width, 3); sizes may differ.
        labels: Class of each image, an index into `names`.
        names: Class names.
        prefix: Identifiers are `prefix/00000`, `prefix/00001`, ...
    """

    def __init__(
        self, images: Sequence[np.ndarray] | np.ndarray, labels: Sequence[int], names: Sequence[str], prefix: str
    ) -> None:
        self.labels = tuple(names)
        self._images = images
        self._classes = np.asarray(labels, dtype=np.int64)
        self._prefix = prefix

    def __len__(self) -> int:
        return len(self._classes)

    def identifier(self, index: int) -> str:
        return f"{self._prefix}/{index:05d}"

    def label(self, index: int) -> int:
        return int(self._classes[index])

    def stamp(self, index: int) -> str:
        image = self._images[index]
        return hashlib.sha256(repr(image.shape).encode() + np.ascontiguousarray(image).tobytes()).hexdigest()

    def read(self, index: int) -> tuple[np.ndarray, int]:
        return self._images[index], self.label(index)


def open_digits() -> ArraySource:
    """scikit-learn's handwritten digits: 1,797 grey images of 8 x 8, as RGB 0..255; classes `zero` to `nine`."""
    from sklearn.datasets import load_digits  # slow to import, and needed here alone

    digits = load_digits()
    grey = np.rint(digits.images * (255 / _DIGITS_MAX)).astype(np.uint8)
    return ArraySource(np.repeat(grey[..., None], 3, axis=-1), digits.target, DIGIT_NAMES, "digits")


def rgb_pixels(array: object) -> np.ndarray:
    """Bring a uint8 array to RGB: grey is repeated, alpha dropped.

    Args:
        array: (H, W), (H, W, 1), (H, W, 3) or (H, W, 4) uint8, no side 0.

    Returns:
        (H, W, 3) uint8; the array itself where it is one already.

    Raises:
        DecodeError: Something else.
    """
    if isinstance(array, str):
        raise DecodeError(
            "image: expected bytes or a NumPy array, received str. Texts go with task=text_classification."
        )
    if not isinstance(array, np.ndarray):
        raise DecodeError(f"image: expected bytes or a NumPy array, received {type(array).__name__}.")
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or array.shape[2:] not in ((), (1,), (3,), (4,)):
        raise DecodeError(f"image: expected uint8 of shape (H, W, 3), received {array.dtype} of shape {array.shape}.")
    if 0 in array.shape:
        raise DecodeError(f"image: expected at least one pixel, received shape {array.shape}.")
    if array.shape[2:] in ((), (1,)):
        return np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2)
    return array[..., :3]
