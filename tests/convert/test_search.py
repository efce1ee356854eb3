import pytest

from tfpipe.convert.gate import Figures
from tfpipe.convert.recipe import Recipe
from tfpipe.convert.search import Budget, explore, rematch, search_plan, short_plan
from tfpipe.convert.sensitivity import Block
from tfpipe.convert.trial import PLAIN_WAY, Contender, Trial, choose
from tfpipe.core.errors import BundleError, ConfigError, ConversionError, DataError
from tfpipe.latency import Speed
from tfpipe.ort_providers import Way

MINMAX, PERCENTILE, ENTROPY = (Recipe("all", method) for method in ("minmax", "percentile", "entropy"))
DYNAMIC = Recipe("products", "dynamic")
OPENVINO = Way("openvino", "bfloat16")
BLOCKS = tuple(Block((f"conv{number}",), damage=1.0 / (number + 1)) for number in range(8))


class Clock:
    """Each trial takes a minute."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


class Machine:
    """Stands for building and measuring: the score by recipe, 0.98 by default; an error is raised."""

    def __init__(self, outcomes=None, clock=None):
        self._outcomes, self._clock = outcomes or {}, clock
        self.tried = []

    def examine(self, contender):
        if self._clock:
            self._clock.now += 60
        self.tried.append(contender)
        outcome = self._outcomes.get(contender.recipe, self._outcomes.get(contender, 0.98))
        if not isinstance(outcome, float):
            raise outcome
        return Trial(contender, Figures(contender.precision, 100, 90, outcome), latency_ms={"1": {"p50": 1.0}})


def judge(figures, reference):
    return [] if reference.score - figures.score <= 0.02 else [f"accuracy: received {figures.score}"]


def searched(
    machine, *, precision=None, budget=None, ways=(PLAIN_WAY,), defaults=(MINMAX, PERCENTILE), further=(), **kw
):
    asked = []

    def worst_blocks(recipe):
        asked.append(recipe)
        return BLOCKS

    plan = search_plan(precision, defaults, further, ways=lambda kind: ways, worst_blocks=worst_blocks)
    found = explore(plan, machine.examine, judge, budget=budget or Budget(100), **kw)
    return found, asked


def test_the_reference_comes_first_then_the_familys_recipe_then_both_elsewhere():
    machine = Machine()

    searched(machine, ways=(PLAIN_WAY, OPENVINO), further=(ENTROPY, DYNAMIC))

    assert machine.tried[:4] == [
        Contender("fp32"), Contender("int8", MINMAX), Contender("fp32", way=OPENVINO),
        Contender("int8", MINMAX, OPENVINO),
    ]  # fmt: skip
    assert Contender("fp16") in machine.tried
    assert len(set(machine.tried)) == len(machine.tried)
    # On a provider without a fast form of it, dynamic ranges are not tried.
    assert Contender("int8", DYNAMIC) in machine.tried
    assert Contender("int8", DYNAMIC, OPENVINO) not in machine.tried


def test_a_trial_that_fails_loses_with_its_reason_and_the_search_goes_on():
    machine = Machine(
        {MINMAX: ConversionError("int8: no"), PERCENTILE: BundleError("cannot load"), ENTROPY: MemoryError()}
    )

    found, _ = searched(machine, further=(ENTROPY, DYNAMIC))

    problems = {trial.contender.recipe: trial.problem for trial in found.trials}
    assert (problems[MINMAX], problems[PERCENTILE], problems[ENTROPY]) == ("int8: no", "cannot load", "MemoryError")
    assert problems[DYNAMIC] == ""
    assert not any(trial.passed for trial in found.trials if trial.problem)


def test_every_contender_faces_the_same_gate():
    found, _ = searched(Machine({MINMAX: 0.95, PERCENTILE: 0.97}))

    missed = {trial.contender.recipe: trial.missed for trial in found.trials}
    assert missed[MINMAX] == ("accuracy: received 0.95",)
    assert missed[PERCENTILE] == ()


def test_where_no_static_recipe_passes_more_and_more_of_the_worst_blocks_are_kept():
    outcomes = {MINMAX: 0.90, PERCENTILE: 0.91}
    kept = [Recipe("all", "percentile", keep=tuple(f"conv{i}" for i in range(count))) for count in (1, 2, 4)]
    outcomes |= {kept[0]: 0.93, kept[1]: 0.955, kept[2]: 0.97}
    machine = Machine(outcomes)

    found, asked = searched(machine)

    # From the most accurate, measured once.
    assert asked == [PERCENTILE]
    mixtures = [trial for trial in found.trials if trial.contender.recipe and trial.contender.recipe.keep]
    assert [trial.contender.recipe for trial in mixtures] == kept
    assert [trial.passed for trial in mixtures] == [False, False, True]


def test_at_most_half_of_the_blocks_are_kept():
    always = dict.fromkeys((MINMAX, PERCENTILE), 0.5)
    for count in range(9):
        always[Recipe("all", "minmax", keep=tuple(f"conv{i}" for i in range(count)))] = 0.5
    machine = Machine(always)

    searched(machine)

    assert max(len(one.recipe.keep) for one in machine.tried if one.recipe) == 4


def test_where_one_passes_nothing_is_measured_for_mixtures():
    assert searched(Machine())[1] == []


def test_with_a_precision_only_that_is_tried_beside_the_reference():
    machine = Machine()

    searched(machine, precision="fp16", ways=(PLAIN_WAY, OPENVINO))

    assert machine.tried == [Contender("fp32"), Contender("fp16"), Contender("fp16", way=OPENVINO)]


def test_the_search_ends_after_so_many_trials():
    found, _ = searched(Machine(), budget=Budget(max_trials=3))

    assert len(found.trials) == 3
    assert found.ended == "after 3 trials, the most that --max-trials allows"


def test_no_trial_begins_after_so_many_minutes():
    clock = Clock()

    found, _ = searched(Machine(clock=clock), budget=Budget(100, max_s=90), clock=clock)

    assert len(found.trials) == 2
    assert [trial.took_s for trial in found.trials] == [60, 60]
    assert found.ended == "after 2.0 minutes and 2 trials: --max-minutes is 1.5"


def test_a_search_without_time_still_measures_the_reference():
    found, _ = searched(Machine(), budget=Budget(max_s=1e-9))

    assert [trial.contender for trial in found.trials] == [Contender("fp32")]


def test_what_was_measured_before_ctrl_c_counts_and_that_is_said(caplog):
    caplog.set_level("INFO")

    found, _ = searched(Machine({PERCENTILE: KeyboardInterrupt()}))

    assert [trial.contender.title for trial in found.trials] == ["fp32, cpu", "int8 (minmax), cpu"]
    assert found.ended == "at Ctrl-C, after 2 trials"
    assert caplog.messages[-2:] == [
        "Ctrl-C ends the search alone: the best of what was tried is converted. Once more stops it.",
        "the search ended at Ctrl-C, after 2 trials",
    ]


def test_ctrl_c_before_anything_was_measured_ends_the_command():
    with pytest.raises(KeyboardInterrupt):
        searched(Machine({Contender("fp32"): KeyboardInterrupt()}))


def test_without_a_reference_there_is_nothing_to_judge_by():
    with pytest.raises(ConversionError, match=r"fp32, cpu: expected answers to judge others by\. cannot load"):
        searched(Machine({Contender("fp32"): BundleError("cannot load")}))


def test_data_that_cannot_be_read_end_the_search():
    with pytest.raises(DataError, match="unreadable"):
        searched(Machine({MINMAX: DataError("unreadable")}))


# Leaders are timed again.


def timed(precision, p50, *, way=PLAIN_WAY, recipe=None, **other):
    latency = {size: {at: p50 * int(size) for at in ("p50", "p95", "p99")} for size in ("1", "8")}
    figures = Figures(precision, 100, 90, 0.98, p50_ms=p50, p95_ms=p50)
    return Trial(
        Contender(precision, recipe, way), figures, latency_ms=latency, rows_per_second={"1": 1e3 / p50}, **other
    )


def test_leaders_are_timed_again_in_turns_and_the_median_counts():
    lucky, steady, slow = timed("fp32", 1.0, way=OPENVINO), timed("int8", 1.05, recipe=MINMAX), timed("fp32", 3.0)
    asked = []

    def clocked(contender):
        asked.append(contender)
        again = timed("int8", 1.4 if contender == lucky.contender else 1.06)
        return Speed(again.latency_ms, again.rows_per_second)

    trials = rematch((slow, lucky, steady), clocked)

    assert asked == [lucky.contender, steady.contender] * 2
    assert [trial.p50_ms for trial in trials] == [3.0, 1.4, 1.06]
    assert [trial.figures.p50_ms for trial in trials] == [3.0, 1.4, 1.06]
    assert trials[2].rows_per_second == {"1": pytest.approx(1e3 / 1.06)}
    assert choose(trials) == trials[2]


@pytest.mark.parametrize(
    "trials",
    [
        (),
        (timed("fp32", 1.0),),
        (timed("fp32", 2.0), timed("int8", 1.0, recipe=MINMAX)),
        (timed("fp32", 1.0), timed("int8", 1.0, recipe=MINMAX, missed=("size",))),
        (timed("fp32", 1.0), timed("int8", 0.9, recipe=DYNAMIC)),
    ],
)
def test_one_that_is_clearly_ahead_is_not_timed_again(trials):
    def clocked(contender):
        raise AssertionError(contender)

    assert rematch(trials, clocked) == trials


def test_without_a_search_int8_recipes_are_tried_until_one_passes():
    machine = Machine({MINMAX: 0.9})

    explore(short_plan((MINMAX, PERCENTILE, DYNAMIC)), machine.examine, judge, budget=Budget())

    assert machine.tried == [Contender("fp32"), Contender("int8", MINMAX), Contender("int8", PERCENTILE)]


def test_without_a_search_ctrl_c_ends_the_command():
    machine = Machine({MINMAX: KeyboardInterrupt()})

    with pytest.raises(KeyboardInterrupt):
        explore(short_plan((MINMAX,)), machine.examine, judge, budget=Budget(), ends_on_interrupt=False)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"max_trials": 0}, "--max-trials: expected at least 1, received 0."),
        ({"max_s": 0.0}, "--max-minutes: expected more than 0, received 0."),
        ({"max_s": float("nan")}, "--max-minutes: expected more than 0, received nan."),
    ],
)
def test_a_budget_that_allows_nothing_is_refused(values, message):
    with pytest.raises(ConfigError) as refusal:
        Budget(**values)

    assert str(refusal.value) == message
