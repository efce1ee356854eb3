"""What stands before a model and after it, for every task: the service, batch prediction and conversion share it.

bytes ─▶ decode ─▶ sample ─▶ prepare ─▶ rows ─▶ in_runs, batch ─▶ model ─▶ cut ─▶ answer_of

No TensorFlow. What runs the model in between is the caller's: a graph on ONNX Runtime, or Keras.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np

from tfpipe.core.errors import InferenceError
from tfpipe.core.signature import Array

Takes: TypeAlias = Literal["image", "text"]


@dataclass(slots=True)
class Prepared:
    """One input, ready for the model.

    Attributes:
        rows: Each one row of the model's input, without the batch's axis; at least one. Several stand for a text that
            is longer than a row.
        answer: What `answer_of` asks, once it has checked the rows' probabilities.
    """

    rows: tuple[Array, ...]
    answer: Callable[[Sequence[Array]], dict[str, Any]]


class Inference(Protocol):
    """What a task does to an input before the model, and to its output after it. Threads may share it."""

    @property
    def takes(self) -> Takes:
        """What an input is."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names, or tags, in the order of the model's output."""

    @property
    def lengths(self) -> tuple[int, ...]:
        """Lengths to which rows are padded, ascending; a single one where all rows have one shape."""

    def decode(self, content: bytes | str) -> Any:
        """An input as a client sends it -> a sample: upright pixels, (height, width, 3) uint8, or a str.

        Raises:
            DecodeError: It cannot be read; `InputTooLargeError` where it is above a limit.
        """

    def prepare(self, sample: Any) -> Prepared:
        """A sample -> rows.

        Raises:
            DecodeError: A text that is no Unicode.
            InferenceError: The preprocessing graph failed.
        """

    def padded_length(self, row: Array) -> int:
        """The one of `lengths` to which a row is padded where it is run alone."""

    def batch(self, rows: Sequence[Array]) -> Array:
        """Rows -> the model's input, padded to the length of the longest and no further."""

    def cut(self, probabilities: Array, rows: Sequence[Array]) -> list[Array]:
        """The model's output -> the probabilities of each row, (classes,) or (tokens, tags), without padding."""


def answer_of(prepared: Prepared, probabilities: Sequence[Array]) -> dict[str, Any]:
    """The answer to one input.

    Args:
        prepared: By `Inference.prepare`.
        probabilities: Of its rows, in order, as `Inference.cut` gives them.

    Raises:
        InferenceError: One is not finite.
    """
    # Not a number is no answer; JSON could not even say it.
    if not all(np.isfinite(row).all() for row in probabilities):
        raise InferenceError("model: expected finite probabilities, received NaN or infinity for this input.")
    return prepared.answer(probabilities)


def in_runs(inference: Inference, rows: Sequence[Array], max_batch_size: int) -> list[list[int]]:
    """Which rows to run together: those of like length, so that little is padded.

    Args:
        inference: What the rows are for.
        rows: In any order.
        max_batch_size: Most rows in one run.

    Returns:
        Positions in `rows`, one list a run; each position once, rows of one length in their order.
    """
    order = sorted(range(len(rows)), key=lambda index: inference.padded_length(rows[index]))
    return [order[start : start + max_batch_size] for start in range(0, len(order), max_batch_size)]
