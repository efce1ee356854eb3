"""What a graph answers, and how far that is from what another one does."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import onnx

from tfpipe.convert.onnx_file import open_graph
from tfpipe.core.errors import GateError
from tfpipe.core.parity import Bound, assert_parity
from tfpipe.core.signature import Array

Inputs = Mapping[str, Array]


def answers(
    model: onnx.ModelProto,
    inputs: Sequence[Inputs],
    *,
    tensors: Iterable[onnx.TensorProto] = (),
    optimise: bool = True,
    in_order: bool = False,
) -> list[dict[str, Array]]:
    """Outputs by name for each of some inputs, on the CPU; see `open_graph`."""
    session = open_graph(model, tensors=tensors, optimise=optimise, in_order=in_order)
    return [session.run(given) for given in inputs]


def assert_same_answers(
    candidates: Sequence[Mapping[str, Array]], references: Sequence[Mapping[str, Array]], bound: Bound, *, where: str
) -> float:
    """Refuse outputs that are further apart than a bound; whole numbers must be equal.

    Args:
        candidates: As `answers` gives them.
        references: The same.
        bound: Of probabilities; outputs beyond 1, such as features, are brought to that scale.
        where: For the message.

    Returns:
        The largest difference, on that scale.

    Raises:
        GateError: They are, or have other names or shapes.
    """
    largest = 0.0
    for candidate, reference in zip(candidates, references, strict=True):
        if candidate.keys() != reference.keys():
            raise GateError(f"{where}: expected outputs {list(reference)}, received {list(candidate)}.")
        for name, values in reference.items():
            largest = max(largest, _difference(candidate[name], values, bound, f"{where}, {name!r}"))
    return largest


def _difference(candidate: Array, reference: Array, bound: Bound, where: str) -> float:
    if not np.issubdtype(reference.dtype, np.floating):
        if not np.array_equal(candidate, reference):
            raise GateError(f"{where}: expected equal answers, received others.")
        return 0.0
    scale = max(1.0, float(np.abs(reference).max(initial=0.0, where=np.isfinite(reference))))
    return assert_parity(candidate / scale, reference / scale, bound, where=where)
