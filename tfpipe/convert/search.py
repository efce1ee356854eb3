"""Which variant of a model is fastest on this machine and still as good: contenders in order, until the budget ends.

What is tried follows from what was measured: `plan` sees the trials so far. Building, running and measuring one of them
is `tfpipe.convert.examine`'s; choosing among them `tfpipe.convert.trial`'s.
"""

import logging
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from tqdm import tqdm

from tfpipe.convert.gate import Figures
from tfpipe.convert.recipe import Recipe
from tfpipe.convert.sensitivity import Block
from tfpipe.convert.trial import PLAIN_WAY, Contender, Trial, by_speed
from tfpipe.core.errors import BundleError, ConfigError, ConversionError, InferenceError
from tfpipe.latency import Speed
from tfpipe.ort_providers import Way

logger = logging.getLogger(__name__)

# What a trial may fail by without ending the search. Unreadable data and a full disk end it.
_FAILURES = (ConversionError, BundleError, InferenceError, ConfigError, MemoryError)
_REFERENCE = Contender("fp32")
# Who is timed again: as fast as this, so many at most, so many times.
_NEAR, _LEADERS, _TURNS = 1.15, 3, 2

Plan: TypeAlias = Callable[[Sequence[Trial]], Iterator[Contender]]
"""Trials so far, a list that grows -> what to try next."""


Judge: TypeAlias = Callable[[Figures, Figures], Sequence[str]]
"""Figures of a contender, and of the reference -> the limits that the contender misses, a sentence each."""


@dataclass(frozen=True)
class Budget:
    """How long a search goes on.

    Attributes:
        max_trials: Trials at most, the float32 reference included.
        max_s: No trial is begun after so many seconds.

    Raises:
        ConfigError: It allows nothing.
    """

    max_trials: int = 12
    max_s: float = 300.0

    def __post_init__(self) -> None:
        if self.max_trials < 1:
            raise ConfigError(f"--max-trials: expected at least 1, received {self.max_trials}.")
        # `not >` rather than `<=`: a NaN is refused too.
        if not self.max_s > 0:
            raise ConfigError(f"--max-minutes: expected more than 0, received {self.max_s / 60:g}.")


@dataclass(frozen=True)
class Exploration:
    """What a search measured.

    Attributes:
        trials: In order; the first is float32 on ONNX Runtime's own provider, which the others are judged by.
        ended: Why it ended, for the report; "" where there was nothing left to try.
    """

    trials: tuple[Trial, ...]
    ended: str = ""


def explore(
    plan: Plan,
    examine: Callable[[Contender], Trial],
    judge: Judge,
    *,
    budget: Budget,
    ends_on_interrupt: bool = True,
    clock: Callable[[], float] = time.monotonic,
) -> Exploration:
    """Try contenders until there are none left, the budget is spent, or Ctrl-C: what was measured by then counts.

    Args:
        plan: What to try; its first contender is what the others are judged by.
        examine: Builds and measures one.
        judge: See `Judge`; `tfpipe.convert.gate` has one.
        budget: When to end.
        ends_on_interrupt: Whether Ctrl-C ends the search alone, and not the command.
        clock: Seconds.

    Raises:
        ConversionError: The reference itself cannot be measured.
        DataError: Too much of the validation data cannot be read.
        KeyboardInterrupt: There was one before anything was measured, or it ends the command.
    """
    trials: list[Trial] = []
    began, ended = clock(), ""
    with tqdm(total=budget.max_trials, desc="search", unit=" trials", leave=False, disable=None) as progress:
        try:
            for contender in plan(trials):
                ended = _spent(trials, clock() - began, budget)
                if ended:
                    break
                progress.set_postfix_str(contender.title)
                trial = _tried(examine, contender, clock)
                trials.append(judged([*trials[:1], trial], judge)[-1])
                _log(trials[-1])
                progress.update()
        except KeyboardInterrupt:
            if not trials or not ends_on_interrupt:
                raise
            ended = f"at Ctrl-C, after {len(trials)} trials"
            logger.warning("Ctrl-C ends the search alone: the best of what was tried is converted. Once more stops it.")
    if ended:
        logger.info("the search ended %s", ended)
    return Exploration(tuple(trials), ended)


def judged(trials: Sequence[Trial], judge: Judge) -> tuple[Trial, ...]:
    """Have every trial face the gate.

    Args:
        trials: The first is what the others are judged by.
        judge: See `Judge`.

    Raises:
        ConversionError: The first has no figures.
    """
    reference = trials[0]
    if reference.figures is None:
        raise ConversionError(f"{reference.contender.title}: expected answers to judge others by. {reference.problem}")
    against = reference.figures
    return tuple(
        trial if trial.figures is None else replace(trial, missed=tuple(judge(trial.figures, against)))
        for trial in trials
    )


def rematch(
    trials: Sequence[Trial], clocked: Callable[[Contender], Speed], *, turns: int = _TURNS
) -> tuple[Trial, ...]:
    """Time the leaders again, in turns: of many trials, the fastest is often the luckiest.

    Args:
        trials: All of a search.
        clocked: Times a contender once more.
        turns: For each leader.

    Returns:
        All trials; a leader's latency and throughput are the medians over its turns and its trial.
    """
    leaders = _leaders(trials)
    speeds = {leader.contender: [Speed(leader.latency_ms, leader.rows_per_second)] for leader in leaders}
    for _ in range(turns if len(leaders) > 1 else 0):
        for contender, measured in speeds.items():
            measured.append(clocked(contender))
    medians = {contender: _median(measured) for contender, measured in speeds.items()}
    return tuple(_with_speed(trial, medians.get(trial.contender)) for trial in trials)


def _leaders(trials: Sequence[Trial]) -> list[Trial]:
    ranked = by_speed(trials)
    near = [
        trial
        for trial in ranked
        if trial.batch_invariant == ranked[0].batch_invariant and trial.p50_ms <= _NEAR * ranked[0].p50_ms
    ]
    return near[:_LEADERS]


def _median(speeds: Sequence[Speed]) -> Speed:
    first = speeds[0]
    latency = {
        size: {at: statistics.median(speed.latency_ms[size][at] for speed in speeds) for at in figures}
        for size, figures in first.latency_ms.items()
    }
    rows = {size: statistics.median(speed.rows_per_second[size] for speed in speeds) for size in first.rows_per_second}
    return Speed(latency, rows)


def _with_speed(trial: Trial, speed: Speed | None) -> Trial:
    if speed is None or trial.figures is None:
        return trial
    of_one = speed.latency_ms["1"]
    figures = replace(trial.figures, p50_ms=of_one["p50"], p95_ms=of_one["p95"])
    return replace(trial, figures=figures, latency_ms=speed.latency_ms, rows_per_second=speed.rows_per_second)


def short_plan(recipes: Sequence[Recipe]) -> Plan:
    """Without a search: INT8 recipes on ONNX Runtime's own provider, until one passes.

    Args:
        recipes: In order.
    """

    def contenders(trials: Sequence[Trial]) -> Iterator[Contender]:
        yield _REFERENCE
        for recipe in recipes:
            yield Contender("int8", recipe)
            if trials[-1].passed:
                break

    return contenders


def search_plan(
    precision: str | None,
    defaults: Sequence[Recipe],
    further: Sequence[Recipe],
    *,
    ways: Callable[[str], Sequence[Way]],
    worst_blocks: Callable[[Recipe], Sequence[Block]],
) -> Plan:
    """What is most likely to win first: the family's recipe, then the plain file elsewhere, then rarer recipes.

    Where the default recipe misses the gate, more and more of the blocks that lose most are kept in float32.

    Args:
        precision: The only one that may be chosen; None: any. float32 is measured in any case.
        defaults: INT8 recipes that the family takes well.
        further: Others.
        ways: How this machine can run a precision, ONNX Runtime's own provider first.
        worst_blocks: Blocks of a static recipe by the damage that INT8 does to each; see `sensitivity`.
    """

    def others(kind: str, recipe: Recipe | None = None) -> Iterator[Contender]:
        # Providers other than ONNX Runtime's own have no fast form of products with dynamic ranges.
        if recipe is None or not recipe.is_dynamic:
            yield from (Contender(kind, recipe, way) for way in ways(kind) if way != PLAIN_WAY)

    def everything(trials: Sequence[Trial]) -> Iterator[Contender]:
        first, *rest = defaults
        yield Contender("int8", first)
        yield from others("fp32")
        yield from others("int8", first)
        for recipe in rest:
            yield Contender("int8", recipe)
        yield from _mixtures(trials, worst_blocks)
        yield Contender("fp16")
        for recipe in further:
            yield Contender("int8", recipe)
        tried = {trial.contender for trial in trials}
        elsewhere = [*others("fp16"), *(way for recipe in (*rest, *further) for way in others("int8", recipe))]
        yield from (contender for contender in elsewhere if contender not in tried)

    def contenders(trials: Sequence[Trial]) -> Iterator[Contender]:
        yield _REFERENCE
        yield from (one for one in everything(trials) if precision in (None, one.precision))

    return contenders


def _mixtures(trials: Sequence[Trial], worst_blocks: Callable[[Recipe], Sequence[Block]]) -> Iterator[Contender]:
    """The most accurate static recipe with the 1, 2, 4, ... worst blocks in float32, where no static recipe passed."""
    static = [
        trial
        for trial in trials
        if trial.contender.recipe is not None and not trial.contender.recipe.is_dynamic and not trial.problem
    ]
    if not static or any(trial.passed for trial in static):
        return
    recipe = max(static, key=lambda trial: trial.score).contender.recipe
    if recipe is None:
        return
    blocks, count = worst_blocks(recipe), 1
    # With half of them in float32, what is left is neither small nor fast.
    while count <= max(len(blocks) // 2, 1) and count <= len(blocks):
        kept = tuple(name for block in blocks[:count] for name in block.nodes)
        yield Contender("int8", replace(recipe, keep=(*recipe.keep, *kept)))
        if trials[-1].passed:
            return
        count *= 2


def _spent(trials: Sequence[Trial], seconds: float, budget: Budget) -> str:
    if len(trials) >= budget.max_trials:
        return f"after {len(trials)} trials, the most that --max-trials allows"
    if trials and seconds >= budget.max_s:
        return f"after {seconds / 60:.1f} minutes and {len(trials)} trials: --max-minutes is {budget.max_s / 60:g}"
    return ""


def _tried(examine: Callable[[Contender], Trial], contender: Contender, clock: Callable[[], float]) -> Trial:
    began = clock()
    try:
        trial = examine(contender)
    except _FAILURES as error:
        trial = Trial(contender, problem=f"{error}" or type(error).__name__)
    return replace(trial, took_s=clock() - began)


def _log(trial: Trial) -> None:
    outcome = "passed" if trial.passed else "missed the gate" if trial.figures else "failed"
    logger.info(
        "trial %s, score %.4f, %.3g ms, %s: %.1f s",
        trial.contender.title, trial.score, trial.p50_ms, outcome, trial.took_s,
    )  # fmt: skip
