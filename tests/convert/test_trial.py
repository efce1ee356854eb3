import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfpipe.convert.gate import Figures
from tfpipe.convert.recipe import Recipe
from tfpipe.convert.trial import (
    Contender,
    Trial,
    by_speed,
    choose,
    executions,
    pareto_front,
    why_not,
    written_int8,
)
from tfpipe.ort_providers import Way

MINMAX, PERCENTILE = Recipe("all", "minmax"), Recipe("all", "percentile")
DYNAMIC, MIXED = Recipe("products", "dynamic"), Recipe("all", "minmax", keep=("stem",))
OPENVINO = Way("openvino", "bfloat16")


def trial(precision, p50_ms, score=0.98, *, recipe=None, way=None, neighbours=0.0, missed=(), problem=""):
    recipe = recipe or (MINMAX if precision == "int8" else None)
    figures = None if problem else Figures(precision, 100, 90, score, neighbours=neighbours)
    return Trial(
        Contender(precision, recipe, way or Way()),
        figures,
        metrics={"accuracy": score},
        latency_ms={} if problem else {"1": {"p50": p50_ms, "p95": p50_ms, "p99": p50_ms}},
        missed=missed,
        problem=problem,
    )


FP32, FP16, INT8 = trial("fp32", 10.0), trial("fp16", 11.0), trial("int8", 4.0, 0.975)
LOSSY = trial("int8", 2.0, 0.9, recipe=PERCENTILE, missed=("accuracy: expected ...",))
DEPENDENT = trial("int8", 3.0, 0.98, recipe=DYNAMIC, neighbours=0.01)
BROKEN = trial("int8", 0.0, recipe=MIXED, problem="int8: expected a graph ...")
ALL = [FP32, FP16, INT8, LOSSY, DEPENDENT, BROKEN]


def is_int8(contender):
    return contender.precision == "int8"


# The choice.


def test_the_fastest_that_passed_is_chosen():
    assert choose(ALL) == INT8


def test_the_plain_file_is_chosen_where_nothing_is_faster():
    assert choose([FP32, FP16, trial("int8", 14.0), LOSSY]) == FP32


def test_another_way_to_run_the_same_file_may_win():
    elsewhere = trial("fp32", 3.5, way=OPENVINO)

    assert choose([*ALL, elsewhere]) == elsewhere


def test_rows_that_depend_on_each_other_win_only_where_nothing_else_passed():
    assert choose([DEPENDENT, INT8]) == INT8
    assert choose([DEPENDENT, LOSSY, BROKEN]) == DEPENDENT


def test_ranges_of_each_batch_depend_on_it_even_where_few_rows_do_not_show_it():
    assert not trial("int8", 3.0, recipe=DYNAMIC, neighbours=0.0).batch_invariant
    assert trial("int8", 3.0, neighbours=0.0).batch_invariant


def test_of_two_that_are_as_fast_the_more_accurate_is_chosen():
    level = trial("int8", 4.05, 0.979, recipe=MIXED)

    assert choose([INT8, level]) == level
    assert choose([INT8, trial("int8", 4.2, 0.979, recipe=MIXED)]) == INT8


def test_where_only_one_precision_may_be_chosen_the_others_are_there_for_comparison():
    assert choose(ALL, may=lambda contender: contender.precision == "fp16") == FP16
    assert choose([FP32, LOSSY], may=is_int8) is None


def test_nothing_is_chosen_where_nothing_passed():
    assert choose([LOSSY, BROKEN]) is None
    assert choose([]) is None


trials = st.builds(
    trial,
    st.sampled_from(["fp32", "fp16", "int8"]),
    st.floats(0.01, 100),
    st.floats(0, 1),
    way=st.sampled_from([Way(), OPENVINO]),
    recipe=st.sampled_from([MINMAX, MIXED]),
    neighbours=st.sampled_from([0.0, 0.01, math.inf]),
    missed=st.sampled_from([(), ("size",)]),
    problem=st.sampled_from(["", "broken"]),
)


@given(st.lists(trials, max_size=12))
def test_what_is_chosen_passed_and_nothing_of_its_kind_is_clearly_faster(measured):
    chosen = choose(measured)

    passed = [one for one in measured if one.passed]
    assert (chosen is None) == (not passed)
    if chosen is not None:
        assert chosen.passed
        assert chosen.batch_invariant or not any(one.batch_invariant for one in passed)
        kind = [one for one in passed if one.batch_invariant == chosen.batch_invariant]
        assert all(chosen.p50_ms <= 1.02 * one.p50_ms for one in kind)


@given(st.lists(trials, max_size=12))
def test_nothing_that_passed_beats_a_trial_of_the_pareto_front(measured):
    front = pareto_front(measured)

    passed = [one for one in measured if one.passed]
    for one in front:
        better = [
            other for other in passed
            if other.p50_ms <= one.p50_ms and other.score >= one.score
            and (other.p50_ms, other.score) != (one.p50_ms, one.score)
        ]  # fmt: skip
        assert not better
    for one in passed:
        assert any(other.p50_ms <= one.p50_ms and other.score >= one.score for other in front)
    assert [one.p50_ms for one in front] == sorted(one.p50_ms for one in front)


# Why the others were not.


@pytest.mark.parametrize(
    ("lost", "reason"),
    [
        (FP32, "2.50 times as slow as what was chosen."),
        (LOSSY, "accuracy: expected ..."),
        (DEPENDENT, "A row's answer depends on the rows beside it, by up to 0.01."),
        (BROKEN, "int8: expected a graph ..."),
        (trial("int8", 4.01, 0.97, recipe=MIXED), "As fast as what was chosen, and less accurate."),
        (INT8, ""),
    ],
)  # fmt: skip
def test_every_trial_that_lost_says_why(lost, reason):
    assert why_not(lost, INT8) == reason


def test_what_was_not_asked_for_says_so():
    assert why_not(FP32, INT8, may=is_int8) == "Measured for comparison: another precision was asked for."


@given(st.lists(trials, min_size=1, max_size=12))
def test_only_the_chosen_one_has_no_reason_to_have_lost(measured):
    chosen = choose(measured)

    for one in measured:
        assert (why_not(one, chosen) == "") == (one == chosen)


# What the bundle holds.


def test_the_best_int8_is_written_even_where_another_precision_is_chosen():
    measured = [trial("fp32", 3.0), INT8, LOSSY]

    assert choose(measured) == measured[0]
    assert written_int8(measured, measured[0]) == {"int8": INT8.contender}


def test_further_int8_variants_on_the_front_are_written_under_names_of_their_own():
    mixed = trial("int8", 5.0, 0.979, recipe=MIXED)
    behind = trial("int8", 6.0, 0.97, recipe=PERCENTILE)

    written = written_int8([FP32, INT8, mixed, behind, DEPENDENT, LOSSY], INT8)

    assert written == {"int8": INT8.contender, "int8_dynamic": DEPENDENT.contender}
    assert written_int8([FP32, INT8, mixed, behind, LOSSY], INT8) == {
        "int8": INT8.contender, "int8_mixed": mixed.contender,
    }  # fmt: skip


def test_at_most_two_further_variants_are_written_and_none_twice():
    front = [
        trial("int8", 4.0 + i, 0.9 + i / 100, recipe=Recipe("all", "minmax", keep=(str(i),)), way=way)
        for i in range(5) for way in (Way(), OPENVINO)
    ]  # fmt: skip

    written = written_int8(front, front[0])

    assert list(written) == ["int8", "int8_mixed", "int8_mixed_3"]
    assert len({contender.recipe for contender in written.values()}) == 3


def test_without_an_int8_that_passed_none_is_written():
    assert written_int8([FP32, LOSSY], FP32) == {}


def test_executions_are_those_of_what_is_written_best_first_and_failures_last():
    elsewhere = trial("int8", 4.5, 0.975, way=OPENVINO)
    failed = trial("fp16", 1.0, missed=("size: expected ...",))
    measured = [FP32, failed, INT8, LOSSY, DEPENDENT, elsewhere]

    listed = executions(measured, INT8, {"int8": INT8.contender, "int8_dynamic": DEPENDENT.contender})

    assert [one.title for one in listed] == [
        "int8, cpu", "int8, openvino (bfloat16)", "fp32, cpu", "int8_dynamic, cpu", "fp16, cpu",
    ]  # fmt: skip
    assert [one.passed for one in listed] == [True, True, True, True, False]
    assert listed[0].latency_ms["1"]["p50"] == 4.0
    assert not listed[3].batch_invariant


def test_trials_are_ranked_by_speed_with_those_that_depend_on_their_neighbours_behind():
    assert by_speed(ALL) == [INT8, FP32, FP16, DEPENDENT]
