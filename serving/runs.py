"""How the contents of a batch are run: together, and where that fails, apart, so that one of them fails alone."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np

from serving.engine import Engine, Row
from serving.errors import InvalidRequestError
from serving.tensor_engine import TensorEngine
from tfpipe.core.errors import InferenceError
from tfpipe.core.signature import Array

AnyEngine: TypeAlias = Engine | TensorEngine
Content = TypeVar("Content")
Result = TypeVar("Result")


@dataclass(slots=True)
class Rows:
    """What one request gives to a batch.

    Attributes:
        rows: Of the model's input.
        features: Whether the vector before the head is wanted.
        are_own: Whether the client made them: preprocessing makes none that the model may fail on.
    """

    rows: Sequence[Array]
    features: bool
    are_own: bool = False


def row_runs(engine: Engine) -> Callable[[Sequence[Rows]], list[list[Row | Exception]]]:
    """Runs the rows of several requests together; gives for each of them what its rows met."""

    def run(contents: Sequence[Rows]) -> list[list[Row | Exception]]:
        features = contents[0].features
        rows = [row for content in contents for row in content.rows]
        given = iter(_bisected(lambda some: engine.run(some, features=features), rows))
        parted = [[next(given) for _ in content.rows] for content in contents]
        return [
            _blamed(engine, some) if content.are_own else some for content, some in zip(contents, parted, strict=True)
        ]

    return run


def tensor_runs(engine: TensorEngine) -> Callable[[Sequence[Mapping[str, Array]]], Sequence[Any]]:
    """Runs the named arrays of several requests together; gives for each of them arrays or an error."""

    def together(some: Sequence[Mapping[str, Array]]) -> list[dict[str, Array]]:
        if len(some) == 1:
            return [engine.run(some[0])]
        answered = engine.run({name: np.concatenate([feeds[name] for feeds in some]) for name in some[0]})
        ends = np.cumsum([len(next(iter(feeds.values()))) for feeds in some])[:-1]
        parts = {name: np.split(array, ends) for name, array in answered.items()}
        return [{name: parts[name][index] for name in parts} for index in range(len(some))]

    return lambda contents: _blamed(engine, _bisected(together, contents))


def _bisected(
    run: Callable[[Sequence[Content]], Sequence[Result]], contents: Sequence[Content]
) -> list[Result | Exception]:
    """Run contents together; where that fails, each half, until those that fail stand alone."""
    try:
        return list(run(contents))
    except (InferenceError, MemoryError) as error:
        if len(contents) == 1:
            return [error]
    middle = len(contents) // 2
    return [*_bisected(run, contents[:middle]), *_bisected(run, contents[middle:])]


def _blamed(engine: AnyEngine, results: list[Result | Exception]) -> list[Result | Exception]:
    """Call failures the doing of inputs that a client made, where a golden sample is answered right after them."""
    if not any(isinstance(one, InferenceError) for one in results) or not engine.is_well():
        return results
    return [_refused(one) if isinstance(one, InferenceError) else one for one in results]


def _refused(error: InferenceError) -> InvalidRequestError:
    said = " ".join(str(error).split())
    # Of ONNX Runtime's sentences the last is about the numbers.
    reason = said.partition("Status Message: ")[2] or said
    return InvalidRequestError(
        f"inputs: expected numbers that the model can compute, received some on which it fails: {reason}"
    )
