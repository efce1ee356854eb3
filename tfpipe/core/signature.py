"""Names, dtypes and shapes of the arrays that cross a boundary."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from tfpipe.core.errors import SignatureError

Array = npt.NDArray[Any]
"""An array of any dtype; docstrings say which."""


@dataclass(frozen=True)
class TensorSpec:
    """One named array.

    Attributes:
        name: Name in the graph and in requests.
        dtype: NumPy name, e.g. "float32".
        shape: One entry an axis: a length, or the axis' name where any length goes.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    @cached_property
    def _lengths(self) -> tuple[tuple[int, int], ...]:
        return tuple((axis, length) for axis, length in enumerate(self.shape) if not isinstance(length, str))

    @cached_property
    def _numpy(self) -> "np.dtype[Any]":
        return np.dtype(self.dtype)

    def fits(self, array: Array) -> bool:
        """Whether an array is as declared."""
        # A loop, and no generator: it is asked of every request.
        shape = array.shape
        if len(shape) != len(self.shape) or array.dtype != self._numpy:
            return False
        for axis, length in self._lengths:  # noqa: SIM110
            if shape[axis] != length:
                return False
        return True

    def check(self, array: Array) -> None:
        """Refuse an array that is not as declared.

        Raises:
            SignatureError: Says what was expected and what was received.
        """
        if not self.fits(array):
            expected = "(" + ", ".join(str(length) for length in self.shape) + ")"
            raise SignatureError(
                f"input {self.name!r}: expected {self.dtype} of shape {expected}, "
                f"received {array.dtype} of shape {array.shape}."
            )

    def to_dict(self) -> dict[str, Any]:
        """JSON form; `from_dict` is its inverse."""
        return {**asdict(self), "shape": list(self.shape)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TensorSpec":
        """Inverse of `to_dict`."""
        return cls(name=values["name"], dtype=values["dtype"], shape=tuple(values["shape"]))
