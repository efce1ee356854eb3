"""Small sources of samples in memory, for tests of the training side."""

import numpy as np


class ArraySource:
    """Samples whose first pixel tells their index; those in `corrupt` cannot be read.

    Args:
        num_samples: How many; up to 65,536.
        labels: Class names; sample i is of class i modulo their number.
        size: (height, width) in pixels.
        corrupt: Indices whose bytes are no image.
    """

    def __init__(self, num_samples, labels=("a", "b"), size=(2, 2), corrupt=()):
        self.labels, self.size, self.corrupt = tuple(labels), size, frozenset(corrupt)
        self._num_samples = num_samples

    def __len__(self):
        return self._num_samples

    def identifier(self, index):
        return f"sample/{index}"

    def label(self, index):
        return index % len(self.labels)

    def stamp(self, index):
        return str(index)

    def read(self, index):
        if index in self.corrupt:
            return b"not an image", self.label(index)
        pixels = np.zeros((*self.size, 3), np.uint8)
        pixels[0, 0] = (index // 256, index % 256, 0)
        return pixels, self.label(index)


def index_of(row):
    """The index that a row of an ArraySource tells, read from its first pixel."""
    return int(row[0, 0, 0]) * 256 + int(row[0, 0, 1])
