"""What protocols read of a model, without a model; and what one answered."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from serving.engine import Answered, Row
from tfpipe.core.signature import Array, TensorSpec
from tfpipe.inference.interface import Prepared


@dataclass(frozen=True)
class Model:
    """A `ModelFacts` of pictures of 8x8; see the functions below for others."""

    name: str = "colours"
    version: str | None = "3"
    task: str = "image_classification"
    takes: str = "image"
    gives_features: bool = False
    labels: tuple[str, ...] = ("red", "green", "blue")
    inputs: tuple[TensorSpec, ...] = (TensorSpec("input", "float32", ("batch", 8, 8, 3)),)
    outputs: tuple[TensorSpec, ...] = (TensorSpec("probabilities", "float32", ("batch", 3)),)


IMAGES = Model()
TEXTS = Model(
    name="moods",
    task="text_classification",
    takes="text",
    labels=("glad", "sad"),
    inputs=(TensorSpec("input", "int32", ("batch", "length")),),
)
TAGS = Model(
    name="names",
    task="token_classification",
    takes="text",
    labels=("O", "B-PER", "I-PER"),
    inputs=(TensorSpec("input", "int32", ("batch", "length")),),
)
TENSORS = Model(
    name="sums",
    version=None,
    task="tensor",
    takes="tensors",
    labels=(),
    inputs=(TensorSpec("numbers", "float32", ("batch", "count")), TensorSpec("factor", "int32", ("batch",))),
    outputs=(TensorSpec("sum", "float32", ("batch",)), TensorSpec("parity", "int32", ("batch",))),
)


def answered(*rows: Array, features: Array | None = None, answer: dict[str, Any] | None = None) -> Answered:
    """What came of one input; its rows' probabilities are given."""
    return Answered(Prepared((), lambda _: answer or {}), tuple(Row(row, features) for row in rows))


def row(*probabilities: float, features: Array | None = None) -> Answered:
    return answered(np.array(probabilities, np.float32), features=features)
