"""What a variant must hold to be shipped. Pure: figures in, sentences out."""

from dataclasses import dataclass

from tfpipe.core.parity import NEIGHBOURS_ATOL

# Names, shapes and the graph itself do not shrink; they count from 1 MB on only.
_SMALL_BYTES = 1_000_000
# Of the file, and of the numbers in it. A few of FP16's stay float32: those beyond its range, and Softmax's.
_LARGEST = {"fp16": 0.51, "int8": 0.50}


@dataclass(frozen=True)
class Figures:
    """What the gate judges a variant by.

    Attributes:
        precision: "fp32", "fp16" or "int8".
        size_bytes: Of the file.
        weight_bytes: Of the numbers stored in it.
        score: The task's own on the validation data, 0..1; None where there are none.
        metric: Its name.
        neighbours: By how much a row's probabilities in a batch differ at most from those that it gets alone.
    """

    precision: str
    size_bytes: int
    weight_bytes: int
    score: float | None
    metric: str = "accuracy"
    neighbours: float = 0.0


def missed_limits(variant: Figures, fp32: Figures, *, max_metric_drop: float) -> list[str]:
    """One sentence for each limit that a variant misses.

    Args:
        variant: Judged.
        fp32: What it is judged against.
        max_metric_drop: Largest loss of the score, as a share: 0.02 is 2 points.
    """
    if variant.precision == "fp32":
        return []
    missed = []
    drop = score_drop(variant, fp32)
    # `not <=` rather than `>`: a NaN must miss.
    if drop is not None and not drop <= max_metric_drop:
        missed.append(
            f"{variant.metric}: expected at most {max_metric_drop:.2%} below fp32's {fp32.score:.2%}, "
            f"received {variant.score:.2%}."
        )
    limit, weights = _LARGEST[variant.precision], variant.weight_bytes / fp32.weight_bytes
    if not weights <= limit:
        missed.append(f"weights: expected at most {limit:.0%} of fp32's bytes, received {weights:.1%}.")
    share = variant.size_bytes / fp32.size_bytes
    if fp32.size_bytes >= _SMALL_BYTES and not share <= limit:
        missed.append(f"file: expected at most {limit:.0%} of fp32's size, received {share:.1%}.")
    if not variant.neighbours <= NEIGHBOURS_ATOL:
        missed.append(
            f"neighbours: expected a row's answer in a batch within {NEIGHBOURS_ATOL:g} of that alone, received "
            f"{variant.neighbours:.3g}."
        )
    return missed


def score_drop(variant: Figures, fp32: Figures) -> float | None:
    """fp32's score less the variant's; None where there are no validation data."""
    if variant.score is None or fp32.score is None:
        return None
    # Rounded: 0.98 - 0.96 is 0.020000000000000018, and must pass a limit of 0.02.
    return round(fp32.score - variant.score, 12)
