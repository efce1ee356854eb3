"""How far two answers to the same input may lie apart, with the reason of each bound."""

from dataclasses import dataclass

import numpy as np

from tfpipe.core.errors import GateError
from tfpipe.core.signature import Array


@dataclass(frozen=True)
class Bound:
    """|candidate - reference| <= atol + rtol * |reference|.

    Attributes:
        atol: Absolute part.
        rtol: Relative part.
        reason: Why it is so wide and no wider, for the certificate.
    """

    atol: float
    rtol: float
    reason: str = ""


# On probabilities, i.e. values in 0..1.
BOUNDS: dict[str, Bound] = {
    "fp32": Bound(1e-4, 1e-3, "the same float32 operations in another order: measured 3e-9 to 2e-5 over ten families"),
    "fp16": Bound(2e-2, 1e-2, "float16 keeps 11 bits (IEEE 754-2008): 5e-4 a rounding, some roundings deep"),
    # Also in which a model may have been trained.
    "bf16": Bound(1.6e-1, 8e-2, "bfloat16 keeps 8 bits: eight times as coarse as float16"),
}
# Preprocessed rows, differences multiplied by the standard deviation, i.e. on a scale of 0..1.
ROWS = Bound(
    1e-4, 0.0, "pixels are chosen alike; float32 rounding is left: measured 5e-8, and 3e-5 with antialiased resizing"
)
# Pixels and token ids.
EQUAL = Bound(0.0, 0.0, "the same decoder or tokenizer: equal")
_ARITHMETIC = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}

# Probabilities of a row beside others, against those alone: dynamic INT8 takes its scales from the whole batch, static
# INT8 and floats differ by rounding only.
NEIGHBOURS_ATOL = 0.02


def golden_bound(precision: str, recorded_max_abs_diff: float, *, arithmetic: str = "float32") -> Bound:
    """The bound for replaying golden samples on the machine that serves.

    Quantisation has no bound of its own on a single answer (the gate judges accuracy over a data set), so the
    difference recorded at conversion is the measure: twice it, for CPUs that round INT8 otherwise, and 2 % for
    differences near 0.

    Args:
        precision: "fp32", "fp16" or "int8".
        recorded_max_abs_diff: As conversion measured it, of this precision, provider and arithmetic.
        arithmetic: "float32", "float16" or "bfloat16": what the provider computes float32 operators in.
    """
    if precision in BOUNDS:
        return max(BOUNDS[precision], BOUNDS[_ARITHMETIC[arithmetic]], key=lambda bound: bound.atol)
    return Bound(
        2.0 * recorded_max_abs_diff + 0.02,
        0.0,
        f"twice the {recorded_max_abs_diff:.2g} of the machine that converted, as CPUs round INT8 differently, + 0.02",
    )


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
