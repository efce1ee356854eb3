"""What a variant must hold to be shipped. Pure: figures in, sentences out."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from tfpipe.core.parity import NEIGHBOURS_ATOL

# Names, shapes and the graph itself do not shrink; they count from 1 MB on only.
_SMALL_BYTES = 1_000_000
# A few of FP16's numbers stay float32: those beyond its range, and Softmax's.
_LEAST_REDUCTION = {"fp16": 0.49, "int8": 0.50, "int8_weights": 0.50, "int4": 0.50}
# Normal quantile: so sure must be that a class lost more than its limit, as rare ones have few samples.
_Z = 1.96
_LISTED = 5


class Recall(NamedTuple):
    """How many of a class were found.

    Attributes:
        found: Of those that are there.
        total: That are there; more than 0.
    """

    found: float
    total: float

    @property
    def share(self) -> float:
        """0..1."""
        return self.found / self.total


class Limits(Protocol):
    """See `tfpipe.settings.ConversionConfig`."""

    @property
    def max_metric_drop(self) -> float: ...

    @property
    def max_class_drop(self) -> float: ...

    @property
    def min_size_reduction(self) -> float | None: ...

    @property
    def max_p95_ms(self) -> float | None: ...

    @property
    def min_speedup(self) -> float | None: ...


@dataclass(frozen=True)
class Figures:
    """What the gate judges a variant by, run in one way.

    Attributes:
        precision: "fp32", "fp16" or "int8".
        size_bytes: Of the file.
        weight_bytes: Of the numbers stored in it.
        score: The task's own on the validation data, 0..1; None where there are none.
        metric: Its name.
        neighbours: By how much a row's probabilities in a batch differ at most from those that it gets alone.
        recalls: Of each class, by name; empty where there are no validation data.
        p50_ms: Median latency of one row; None where it was not measured.
        p95_ms: 95th percentile of the latency of one row; None where it was not measured.
    """

    precision: str
    size_bytes: int
    weight_bytes: int
    score: float | None
    metric: str = "accuracy"
    neighbours: float = 0.0
    recalls: Mapping[str, Recall] = field(default_factory=dict)
    p50_ms: float | None = None
    p95_ms: float | None = None


def missed_limits(variant: Figures, fp32: Figures, limits: Limits) -> list[str]:
    """One sentence for each limit that a variant misses, with what may help.

    Args:
        variant: Judged.
        fp32: What it is judged against, run by ONNX Runtime's own CPU provider.
        limits: What is allowed.
    """
    missed = [*_speed(variant, fp32, limits)]
    if variant.precision != "fp32":
        missed = [
            *_score(variant, fp32, limits),
            *_classes(variant, fp32, limits),
            *_size(variant, fp32, limits),
            *missed,
        ]
    # `not <=` rather than `>`, here and below: a NaN must miss.
    if not variant.neighbours <= NEIGHBOURS_ATOL:
        missed.append(
            f"neighbours: expected a row's answer in a batch within {NEIGHBOURS_ATOL:g} of that alone, received "
            f"{variant.neighbours:.3g}. Use a static calibration_method."
        )
    return missed


def score_drop(variant: Figures, fp32: Figures) -> float | None:
    """fp32's score less the variant's; None where there are no validation data."""
    if variant.score is None or fp32.score is None:
        return None
    # Rounded: 0.98 - 0.96 is 0.020000000000000018, and must pass a limit of 0.02.
    return round(fp32.score - variant.score, 12)


def _score(variant: Figures, fp32: Figures, limits: Limits) -> Iterator[str]:
    drop = score_drop(variant, fp32)
    if drop is not None and not drop <= limits.max_metric_drop:
        yield (
            f"{variant.metric}: expected at most {limits.max_metric_drop:.2%} below fp32's {fp32.score:.2%}, "
            f"received {variant.score:.2%}. Try --search, another conversion.calibration_method, or --precision fp16."
        )


def _classes(variant: Figures, fp32: Figures, limits: Limits) -> Iterator[str]:
    lost = [
        f"{name} {before.share:.1%} -> {variant.recalls[name].share:.1%} of {before.total:g}"
        for name, before in fp32.recalls.items()
        if name in variant.recalls and _is_lost(variant.recalls[name], before, limits.max_class_drop)
    ]
    if lost:
        more = f" and {len(lost) - _LISTED} more" if len(lost) > _LISTED else ""
        yield (
            f"classes: expected at most {limits.max_class_drop:.0%} of each class's recall to be lost and none to "
            f"vanish, received {', '.join(lost[:_LISTED])}{more}. Try --search; conversion.max_class_drop is the limit."
        )


def _is_lost(after: Recall, before: Recall, max_drop: float) -> bool:
    if before.found and not after.found:
        return max_drop < 1
    # Of a class with three samples one is a third: a loss counts where chance alone does not explain it.
    spread = _Z * math.sqrt(before.share * (1 - before.share) / before.total + 1 / (4 * before.total**2))
    return not before.share - after.share <= max_drop + spread


def _size(variant: Figures, fp32: Figures, limits: Limits) -> Iterator[str]:
    asked = limits.min_size_reduction
    largest = 1 - (_LEAST_REDUCTION[variant.precision] if asked is None else asked)
    weights = variant.weight_bytes / fp32.weight_bytes
    advice = "The report lists what was kept; conversion.min_size_reduction is the limit."
    if not round(weights, 12) <= round(largest, 12):
        yield f"weights: expected at most {largest:.0%} of fp32's bytes, received {weights:.1%}. {advice}"
    file = variant.size_bytes / fp32.size_bytes
    if fp32.size_bytes >= _SMALL_BYTES and not round(file, 12) <= round(largest, 12):
        yield f"file: expected at most {largest:.0%} of fp32's size, received {file:.1%}. {advice}"


def _speed(variant: Figures, fp32: Figures, limits: Limits) -> Iterator[str]:
    if limits.max_p95_ms is not None and variant.p95_ms is not None and not variant.p95_ms <= limits.max_p95_ms:
        yield (
            f"latency: expected a 95th percentile of at most {limits.max_p95_ms:g} ms for one row, received "
            f"{variant.p95_ms:.3g} ms. Try --search, a smaller model, or more threads."
        )
    if limits.min_speedup is None or variant.p50_ms is None or fp32.p50_ms is None:
        return
    speedup = fp32.p50_ms / variant.p50_ms
    if not speedup >= limits.min_speedup:
        yield (
            f"speed: expected at least {limits.min_speedup:g} times fp32's, received {speedup:.2f} times. Try "
            "--search: on some processors another precision or provider is faster."
        )
