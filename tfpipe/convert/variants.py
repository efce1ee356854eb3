"""INT8 variants of a trained model, and what is served by default: found by the family's recipes, or by a search."""

import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import onnx

from tfpipe.conversion_settings import ConversionConfig
from tfpipe.convert.candidate import Candidate
from tfpipe.convert.examine import Examiner, Known, Yardstick
from tfpipe.convert.gate import missed_limits
from tfpipe.convert.quantize import Quantizer
from tfpipe.convert.recipe import Recipe, default_recipes, further_recipes
from tfpipe.convert.search import Budget, Exploration, Plan, explore, judged, rematch, search_plan, short_plan
from tfpipe.convert.sensitivity import Block, worst_blocks
from tfpipe.convert.trial import Contender, Trial, choose, executions, why_not, written_int8
from tfpipe.core.bundle import Execution
from tfpipe.core.errors import ConversionError
from tfpipe.core.signature import Array
from tfpipe.ort_providers import ways

# Recipes of a short plan are few: it ends by itself.
_WHOLE_PLAN = Budget(max_trials=100, max_s=float("inf"))


@dataclass(frozen=True)
class Search:
    """What a search is to look for.

    Attributes:
        budget: When to end.
        precision: The only one that may be chosen; None: the fastest of all.
    """

    budget: Budget
    precision: str | None = None

    def may_choose(self, contender: Contender) -> bool:
        """Whether a contender is of the precision asked for."""
        return self.precision in (None, contender.precision)


@dataclass(frozen=True)
class Found:
    """INT8 variants to be written, and how they came to be.

    Attributes:
        trials: Every trial, with the reason for which it was not chosen; "" for the one that was.
        ended: Why the search ended; "" where there was nothing left to try.
        chosen: What is to be served by default; None where nothing that was asked for passed the gate.
        int8: Variants by name; "int8" is the best, or where none passed the most accurate. Empty where none could be
            built, or none was asked for.
        executions: Every measured way to run what the bundle holds, best first; see `Manifest.executions`.
        known: What need not be measured again, by variant.
    """

    trials: tuple[tuple[Trial, str], ...]
    ended: str
    chosen: Trial | None
    int8: dict[str, Candidate]
    executions: tuple[Execution, ...]
    known: dict[str, Known]

    @property
    def default_variant(self) -> str | None:
        """Name of the variant that was chosen."""
        return self.executions[0].variant if self.chosen else None

    def with_others(self, executions: Sequence[Execution]) -> tuple[Execution, ...]:
        """These, and behind them those of variants that the search did not come to."""
        tried = {execution.variant for execution in self.executions}
        return (*self.executions, *(other for other in executions if other.variant not in tried))


def find_variants(
    graphs: Mapping[str, onnx.ModelProto],
    calibration: Sequence[Array],
    yardstick: Yardstick,
    config: ConversionConfig,
    *,
    search: Search | None,
) -> Found:
    """Build and measure variants on this machine, and choose.

    Without a search: the INT8 recipes of the model's family in order, until one passes the gate.

    Args:
        graphs: "fp32" and "fp16".
        calibration: Rows that set INT8 ranges.
        yardstick: What to measure with.
        config: Recipes and the gate's limits.
        search: What to look for; None: INT8 by the family's recipes.

    Raises:
        ConversionError: The float32 graph does not answer; without a search also: no INT8 graph can be built.
        DataError: Too much of the validation data cannot be read.
    """
    conversion = yardstick.conversion
    defaults = default_recipes(config, conversion.int8_operators)
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="tfpipe-variants-") as folder,
        Quantizer(graphs["fp32"], conversion.calibration(calibration)) as quantizer,
    ):
        examiner = Examiner(partial(_build, graphs, quantizer), yardstick, Path(folder))
        budget = _WHOLE_PLAN if search is None else search.budget

        def most_sensitive(recipe: Recipe) -> list[Block]:
            return worst_blocks(quantizer, recipe, is_over=lambda: time.monotonic() - began > budget.max_s)

        plan: Plan = short_plan(defaults)
        if search is not None:
            further = further_recipes(config, conversion.int8_operators)
            plan = search_plan(search.precision, defaults, further, ways=ways, worst_blocks=most_sensitive)
        judge = partial(missed_limits, limits=config)
        exploration = explore(plan, examiner.examine, judge, budget=budget, ends_on_interrupt=search is not None)
        if search is not None:
            again = rematch(exploration.trials, examiner.clocked)
            exploration = replace(exploration, trials=judged(again, judge))
        return _found(exploration, examiner, search or Search(budget, "int8"), len(calibration))


def _build(
    graphs: Mapping[str, onnx.ModelProto], quantizer: Quantizer, precision: str, recipe: Recipe | None
) -> onnx.ModelProto:
    return graphs[precision] if recipe is None else quantizer.quantize(recipe)


def _found(exploration: Exploration, examiner: Examiner, search: Search, num_calibration: int) -> Found:
    trials = exploration.trials
    chosen = choose(trials, may=search.may_choose)
    written = written_int8(trials, chosen)
    if not written and search.precision == "int8":
        written = {"int8": _most_accurate(trials)}
    int8 = {}
    for name, contender in written.items():
        graph = onnx.load(examiner.file(contender).path)
        # What was written as INT8 has a recipe.
        described = contender.recipe.describe() if contender.recipe else {}
        int8[name] = Candidate(name, "int8", graph, described | {"calibration_samples": num_calibration})
    reasons = tuple((trial, why_not(trial, chosen, may=search.may_choose)) for trial in trials)
    held = {precision: Contender(precision) for precision in ("fp32", "fp16")} | written
    known = {name: examiner.known(contender, name) for name, contender in held.items()}
    return Found(reasons, exploration.ended, chosen, int8, executions(trials, chosen, written), known)


def _most_accurate(trials: Sequence[Trial]) -> Contender:
    """What the gate refuses with its figures, where all INT8 missed it."""
    int8 = [trial for trial in trials if trial.contender.precision == "int8"]
    measured = [trial for trial in int8 if trial.figures is not None]
    if not measured:
        raise ConversionError("; ".join(trial.problem for trial in int8) or "int8: no recipe was tried in time.")
    return max(measured, key=lambda trial: trial.score).contender
