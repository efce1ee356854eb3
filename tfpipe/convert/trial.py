"""What was tried on the way to the served variant, and which of it is chosen. Pure: figures in, a choice out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tfpipe.convert.gate import Figures
from tfpipe.convert.recipe import Recipe
from tfpipe.core.bundle import Execution
from tfpipe.core.parity import BOUNDS
from tfpipe.ort_providers import Way

# ONNX Runtime's own provider, which is everywhere.
PLAIN_WAY = Way()
# As fast as each other: the same session timed twice differs by more on a quiet machine.
_LEVEL = 1.02
_FURTHER_VARIANTS = 2


@dataclass(frozen=True)
class Contender:
    """What may answer requests: a variant, and how it is run.

    Attributes:
        precision: "fp32", "fp16" or "int8".
        recipe: Of INT8; None for the others.
        way: Provider and arithmetic.
    """

    precision: str
    recipe: Recipe | None = None
    way: Way = PLAIN_WAY

    @property
    def file_key(self) -> tuple[str, Recipe | None]:
        """What contenders that are the same file share."""
        return self.precision, self.recipe

    @property
    def title(self) -> str:
        """As reports name it, e.g. "int8 (minmax), openvino (bfloat16)"."""
        return f"{self.precision}{f' ({self.recipe.title})' if self.recipe else ''}, {self.way.title}"


@dataclass(frozen=True)
class Trial:
    """A contender as it was measured.

    Attributes:
        contender: What was tried.
        figures: What the gate judges; None where it could not be built, loaded or run.
        metrics: The task's scores by name on validation data; empty where there were none.
        latency_ms: By batch size, {"1": {"p50": 0.2, "p95": 0.3, "p99": 0.4}, "8": ...}.
        rows_per_second: By batch size.
        peak_memory_bytes: Of a process that only runs it.
        golden_max_abs_diff: Largest difference from Keras's answers.
        on_cpu: Operators that the provider left to ONNX Runtime's own.
        missed: Limits of the gate that it misses, a sentence each.
        problem: Why there are no figures, or answers that are none; "" where all is well.
        took_s: Seconds that the trial took.
    """

    contender: Contender
    figures: Figures | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    latency_ms: dict[str, dict[str, float]] = field(default_factory=dict)
    rows_per_second: dict[str, float] = field(default_factory=dict)
    peak_memory_bytes: int | None = None
    golden_max_abs_diff: float = 0.0
    on_cpu: tuple[str, ...] = ()
    missed: tuple[str, ...] = ()
    problem: str = ""
    took_s: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether it may be chosen."""
        return self.figures is not None and not self.problem and not self.missed

    @property
    def p50_ms(self) -> float:
        """Median milliseconds of one row; infinity where it was not measured."""
        return self.latency_ms.get("1", {}).get("p50", float("inf"))

    @property
    def score(self) -> float:
        """The task's metric, 0..1; 0 where there are no validation data."""
        return (self.figures.score if self.figures else None) or 0.0

    @property
    def batch_invariant(self) -> bool:
        """Whether a row's answer is independent of the rows beside it."""
        recipe = self.contender.recipe
        if self.figures is None or (recipe is not None and recipe.is_dynamic):
            # That few rows did not show it proves nothing.
            return False
        return self.figures.neighbours <= BOUNDS["fp32"].atol

    def execution(self, variant: str) -> Execution:
        """For the bundle's manifest.

        Args:
            variant: Name of the variant there.
        """
        return Execution(
            variant=variant,
            provider=self.contender.way.provider,
            arithmetic=self.contender.way.arithmetic,
            golden_max_abs_diff=self.golden_max_abs_diff,
            batch_invariant=self.batch_invariant,
            metrics=self.metrics,
            latency_ms=self.latency_ms,
            rows_per_second=self.rows_per_second,
            peak_memory_bytes=self.peak_memory_bytes,
            missed=(*((self.problem,) if self.problem else ()), *self.missed),
        )


def choose(trials: Sequence[Trial], *, may: Callable[[Contender], bool] = lambda contender: True) -> Trial | None:
    """The fastest trial that passed, one row at a time; None where none did.

    One whose rows do not depend on each other wins over any whose do; of those that are as fast, the most accurate.

    Args:
        trials: Measured on one machine.
        may: What may be chosen at all.
    """
    ranked = by_speed([trial for trial in trials if may(trial.contender)])
    if not ranked:
        return None
    level = [
        trial
        for trial in ranked
        if trial.batch_invariant == ranked[0].batch_invariant and trial.p50_ms <= _LEVEL * ranked[0].p50_ms
    ]
    return max(level, key=lambda trial: (trial.score, -trial.p50_ms))


def by_speed(trials: Sequence[Trial]) -> list[Trial]:
    """Those that passed, the fastest first; those whose rows depend on each other behind all others."""
    passed = [trial for trial in trials if trial.passed]
    return sorted(passed, key=lambda trial: (not trial.batch_invariant, trial.p50_ms))


def pareto_front(trials: Sequence[Trial]) -> list[Trial]:
    """Those that passed and that no other one is both faster and at least as accurate as; the fastest first."""
    front: list[Trial] = []
    passed = (trial for trial in trials if trial.passed)
    for trial in sorted(passed, key=lambda trial: (trial.p50_ms, -trial.score)):
        if not front or trial.score > front[-1].score:
            front.append(trial)
    return front


def why_not(trial: Trial, chosen: Trial | None, *, may: Callable[[Contender], bool] = lambda contender: True) -> str:
    """In a sentence, why a trial was not chosen; "" for the one that was.

    Args:
        trial: One of those that `chosen` was chosen from.
        chosen: By `choose`.
        may: As it was given to `choose`.
    """
    if trial.problem or trial.missed:
        return " ".join((*((trial.problem,) if trial.problem else ()), *trial.missed))
    if trial.figures is None:
        return "It was not measured."
    if not may(trial.contender):
        return "Measured for comparison: another precision was asked for."
    if chosen is None or trial == chosen:
        return ""
    slower = trial.p50_ms / chosen.p50_ms
    if not trial.batch_invariant and chosen.batch_invariant:
        return f"A row's answer depends on the rows beside it, by up to {trial.figures.neighbours:.2g}."
    if slower > _LEVEL:
        return f"{slower:.2f} times as slow as what was chosen."
    return "As fast as what was chosen, and less accurate."


def written_int8(trials: Sequence[Trial], chosen: Trial | None) -> dict[str, Contender]:
    """INT8 variants that the bundle holds, by name: the best, and up to two more that are on the Pareto front.

    Args:
        trials: All that was measured.
        chosen: By `choose`; where it is no INT8 variant, the best of those is written beside it.

    Returns:
        One contender for each file; the way that it is run plays no part. Empty where no INT8 trial passed.
    """
    best = chosen
    if best is None or best.contender.precision != "int8":
        best = choose(trials, may=lambda contender: contender.precision == "int8")
    if best is None:
        return {}
    written = {"int8": best.contender}
    for trial in pareto_front(trials):
        known = {contender.file_key for contender in written.values()}
        is_new = trial.contender.precision == "int8" and trial.contender.file_key not in known
        if is_new and len(written) <= _FURTHER_VARIANTS:
            written[_further_name(trial.contender, taken=written)] = trial.contender
    return written


def executions(trials: Sequence[Trial], chosen: Trial | None, int8: dict[str, Contender]) -> tuple[Execution, ...]:
    """Every measured way to run what the bundle holds, best first; those that failed behind.

    Args:
        trials: All that was measured.
        chosen: By `choose`.
        int8: By `written_int8`.
    """
    names = {contender.file_key: name for name, contender in int8.items()}
    names |= {(precision, None): precision for precision in ("fp32", "fp16")}
    others = [trial for trial in by_speed(trials) if trial != chosen]
    failed = [trial for trial in trials if not trial.passed]
    ordered = [*((chosen,) if chosen else ()), *others, *failed]
    return tuple(
        trial.execution(names[trial.contender.file_key]) for trial in ordered if trial.contender.file_key in names
    )


def _further_name(contender: Contender, *, taken: dict[str, Contender]) -> str:
    recipe = contender.recipe
    if recipe is None:
        raise ValueError("contender: expected one of INT8, which has a recipe.")
    kind = "mixed" if recipe.keep or recipe.keep_depthwise else recipe.calibration_method
    name = f"int8_{kind}"
    return name if name not in taken else f"{name}_{len(taken) + 1}"
