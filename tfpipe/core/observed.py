"""What is measured of a sample, and of an answer, to be compared with training's; cheap, as a service does it too."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tfpipe.core.postprocess import MULTI_LABEL_THRESHOLD
from tfpipe.core.signature import Array

# Of larger pictures every so-manieth row and column is looked at: 0.15 ms on the build machine, whatever the size.
_MOST_PIXELS = 4096
# Source: ITU-R BT.601-7, section 2.5.1.
_LUMA = np.array([0.299, 0.587, 0.114])

IMAGE_FEATURES = {
    "width": "pixels", "height": "pixels", "aspect_ratio": "", "brightness": "grey levels",
    "red_mean": "grey levels", "green_mean": "grey levels", "blue_mean": "grey levels",
    "red_std": "grey levels", "green_std": "grey levels", "blue_std": "grey levels",
}  # fmt: skip
TEXT_FEATURES = {"characters": "", "tokens": "", "unknown_ratio": ""}
VOCABULARY, LABEL, CONFIDENCE = "vocabulary", "label", "confidence"
NO_LABEL = "(none)"


def image_numbers(pixels: Array) -> list[float]:
    """The `IMAGE_FEATURES` of a decoded image.

    Args:
        pixels: (height, width, 3) uint8, of any size above 0.
    """
    height, width = pixels.shape[:2]
    step = math.ceil(math.sqrt(height * width / _MOST_PIXELS))
    some = pixels[::step, ::step].reshape(-1, 3).astype(np.int64)
    # Whole numbers, so that every machine gives the same.
    sums, squares = some.sum(axis=0), np.einsum("ij,ij->j", some, some)
    means = sums / len(some)
    stds = np.sqrt(np.maximum(squares * len(some) - sums * sums, 0)) / len(some)
    return [float(width), float(height), width / height, float(means @ _LUMA), *means.tolist(), *stds.tolist()]


def text_ids(rows: Sequence[Array]) -> Array:
    """(tokens,) ids of a text's rows, without those that open and close each."""
    parts = [row[1:-1] for row in rows]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def text_numbers(text: str, ids: Array, unknown_id: int | None) -> list[float]:
    """The `TEXT_FEATURES` of a text.

    Args:
        text: As it was sent.
        ids: (tokens,), by `text_ids`.
        unknown_id: Stands for what the vocabulary lacks.
    """
    unknown = int(np.count_nonzero(ids == unknown_id))
    return [float(len(text)), float(len(ids)), unknown / max(len(ids), 1)]


class Groups:
    """Which bin a class or token belongs to: those that are known have one each, all others the last.

    Args:
        known: Ascending.
    """

    def __init__(self, known: Sequence[int]) -> None:
        # One more than there can be, so that what is looked up has a place.
        self._known = np.array([*known, np.iinfo(np.int64).max], np.int64)

    def count(self, indices: Array) -> Array:
        """(n,) classes or tokens -> (bins,) counts."""
        places = np.searchsorted(self._known, indices)
        places[self._known[places] != indices] = len(self._known) - 1
        return np.bincount(places, minlength=len(self._known))


@dataclass(frozen=True)
class Answers:
    """How answers of a task are counted.

    Attributes:
        multi_label: Whether an input may have several labels, or none.
        has_tags: Whether each token is answered.
    """

    multi_label: bool = False
    has_tags: bool = False

    def names(self, labels: Sequence[str]) -> tuple[str, ...]:
        """What classes are called, in the order of `classes`."""
        return (*labels, NO_LABEL) if self.multi_label else tuple(labels)

    def classes(self, probabilities: Array) -> Array:
        """(n,) classes that one row's answer gives: one; all labels given, or `NO_LABEL`; or one a token.

        Args:
            probabilities: (classes,), or (tokens, tags) with those that open and close a row.
        """
        if self.has_tags:
            # Of an empty text nothing is answered.
            tags: Array = probabilities[1:-1].argmax(axis=-1)
            return tags
        if self.multi_label:
            given = np.flatnonzero(probabilities >= MULTI_LABEL_THRESHOLD)
            return given if len(given) else np.array([len(probabilities)])
        return np.array([probabilities.argmax()])

    def confidence(self, probabilities: Array) -> float:
        """How sure an answer is, 0..1: its largest probability; of tags their mean, 1 where there are none."""
        if self.has_tags:
            inner = probabilities[1:-1]
            return float(inner.max(axis=-1).mean()) if len(inner) else 1.0
        return float(probabilities.max())
