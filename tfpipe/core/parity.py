"""How far two answers to the same input may lie apart, with the reason of each bound."""

from dataclasses import dataclass

import numpy as np

from tfpipe.core.errors import GateError
from tfpipe.core.signature import Array


@dataclass(frozen=True)
class Bound:
    """|candidate - reference| <= atol + rtol * |reference|."""

    atol: float
    rtol: float


# On probabilities, i.e. values in 0..1.
BOUNDS: dict[str, Bound] = {
    # Same float32 operations in another order: measured 3e-9 to 2e-5 over ten model families, resizing included.
    "fp32": Bound(atol=1e-4, rtol=1e-3),
    # Half precision keeps 11 bits (IEEE 754-2008): 5e-4 a rounding, some roundings deep.
    "fp16": Bound(atol=2e-2, rtol=1e-2),
    # bfloat16, in which a model may have been trained, keeps 8 bits: eight times as coarse.
    "bf16": Bound(atol=1.6e-1, rtol=8e-2),
}
# Preprocessed rows, differences multiplied by the standard deviation, i.e. on a scale of 0..1. Decoding and choosing
# pixels are bit-identical; what is left is float32 rounding: measured 5e-8 with plain resizing, and 3e-5 with
# antialiased resizing, whose weights are sums in another order.
ROWS = Bound(atol=1e-4, rtol=0.0)


# Probabilities of a row beside others, against those alone: dynamic INT8 takes its scales from the whole batch, static
# INT8 and floats differ by rounding only.
NEIGHBOURS_ATOL = 0.02


def golden_bound(precision: str, recorded_max_abs_diff: float) -> Bound:
    """The bound for replaying golden samples on the machine that serves.

    Quantisation has no bound of its own on a single answer (the gate judges accuracy over a data set), so the
    difference recorded at conversion is the measure: twice it, for CPUs that round INT8 otherwise, and 2 % for
    differences near 0.

    Args:
        precision: "fp32", "fp16" or "int8".
        recorded_max_abs_diff: `Variant.golden_max_abs_diff`.
    """
    return BOUNDS.get(precision, Bound(atol=2.0 * recorded_max_abs_diff + 0.02, rtol=0.0))


def max_abs_diff(candidate: Array, reference: Array) -> float:
    """Largest absolute difference; infinity where a value is NaN or shapes differ."""
    if candidate.shape != reference.shape:
        return float("inf")
    if candidate.size == 0:
        return 0.0
    difference = np.abs(candidate.astype(np.float64) - reference.astype(np.float64))
    return float("inf") if np.isnan(difference).any() else float(difference.max())


def assert_parity(candidate: Array, reference: Array, bound: Bound, *, where: str) -> float:
    """Refuse answers that lie further apart than the bound.

    Args:
        candidate: Any shape, float.
        reference: The same shape.
        bound: See `BOUNDS` and `golden_bound`.
        where: The hop, for the message, e.g. "Keras -> ONNX fp32".

    Returns:
        The largest absolute difference.

    Raises:
        GateError: Shapes differ, a value is NaN, or the bound is exceeded.
    """
    if candidate.shape != reference.shape:
        raise GateError(f"{where}: expected shape {reference.shape}, received {candidate.shape}.")
    excess = np.abs(candidate.astype(np.float64) - reference) - (bound.atol + bound.rtol * np.abs(reference))
    largest = max_abs_diff(candidate, reference)
    # `not <= 0` rather than `> 0`: a NaN must fail.
    if not np.all(excess <= 0):
        raise GateError(
            f"{where}: expected answers within atol={bound.atol:g}, rtol={bound.rtol:g} of the reference, "
            f"received a largest difference of {largest:g}."
        )
    return largest
