"""The sequential test: how often it is wrong however often one looks, and that it finds what is there."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfpipe.core.errors import ConfigError
from tfpipe.core.sequential import Evidence, Limits, Tally, judge, log_e_within, log_e_worse

ALPHA = 0.1
LOOKS = 60


def simulated(rng, share, looks, each):
    """(looks,) of tallies as they grow."""
    bad = rng.binomial(each, share, size=looks).cumsum()
    return [Tally(int(one), each * (look + 1)) for look, one in enumerate(bad)]


def ever(measure, candidates, baselines, margin):
    return any(
        measure(candidate, baseline, margin) >= -math.log(ALPHA)
        for candidate, baseline in zip(candidates, baselines, strict=True)
    )


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3])
@pytest.mark.parametrize("margin", [0.0, 0.005])
def test_a_version_on_the_margin_is_seldom_called_worse_however_often_one_looks(share, margin):
    rng = np.random.default_rng(0)
    runs = 200

    wrong = sum(
        ever(log_e_worse, simulated(rng, share + margin, LOOKS, 20), simulated(rng, share, LOOKS, 80), margin)
        for _ in range(runs)
    )

    # Four standard deviations above what is promised.
    assert wrong <= ALPHA * runs + 4 * math.sqrt(ALPHA * (1 - ALPHA) * runs)


def test_a_version_on_the_margin_is_seldom_called_good_however_often_one_looks():
    rng = np.random.default_rng(1)
    runs = 200

    wrong = sum(
        ever(log_e_within, simulated(rng, 0.03, LOOKS, 20), simulated(rng, 0.01, LOOKS, 80), 0.02) for _ in range(runs)
    )

    assert wrong <= ALPHA * runs + 4 * math.sqrt(ALPHA * (1 - ALPHA) * runs)


def test_two_equal_versions_are_seldom_rolled_back_over_three_measures():
    rng = np.random.default_rng(2)
    limits = Limits(alpha=ALPHA, errors=1e-9, slower=1e-9, wrong=1e-9)
    runs = 100

    def evidence(each):
        errors, wrong = simulated(rng, 0.02, LOOKS, each), simulated(rng, 0.1, LOOKS, each)
        slow = {time: simulated(rng, share, LOOKS, each) for time, share in ((0.01, 0.5), (0.1, 0.05), (1.0, 0.0))}
        return [
            Evidence(errors[look], {time: tallies[look] for time, tallies in slow.items()}, wrong[look])
            for look in range(LOOKS)
        ]

    wrong = sum(
        any(judge(*pair, limits).outcome == "roll_back" for pair in zip(evidence(20), evidence(80), strict=True))
        for _ in range(runs)
    )

    assert wrong <= ALPHA * runs + 4 * math.sqrt(ALPHA * (1 - ALPHA) * runs)


def test_a_version_that_fails_five_times_as_often_is_found_within_some_hundred_requests():
    rng = np.random.default_rng(3)
    limits = Limits()

    found = []
    for _ in range(20):
        pairs = zip(simulated(rng, 0.05, 100, 20), simulated(rng, 0.01, 100, 180), strict=True)
        outcomes = [judge(Evidence(candidate), Evidence(baseline), limits).outcome for candidate, baseline in pairs]
        found.append(20 * (outcomes.index("roll_back") + 1) if "roll_back" in outcomes else 0)

    assert all(found)
    assert np.median(found) < 1000


def test_a_version_that_is_slower_or_wrong_more_often_is_rolled_back_and_the_reason_has_the_counts():
    errors = Tally(0, 1000)
    slow = judge(
        Evidence(errors, {0.05: Tally(300, 1000), 5.0: Tally(0, 1000)}),
        Evidence(errors, {0.05: Tally(50, 1000), 5.0: Tally(0, 1000)}),
        Limits(),
    )
    wrong = judge(Evidence(errors, {}, Tally(100, 500)), Evidence(errors, {}, Tally(20, 500)), Limits())

    assert (slow.outcome, wrong.outcome) == ("roll_back", "roll_back")
    assert slow.reason.startswith(
        "slower than 0.05 s 30 % (300 of 1,000) against 5 % (50 of 1,000), margin 5 points: worse; e-value "
    )
    assert wrong.reason.startswith("wrong answers 20 % (100 of 500) against 4 % (20 of 500), margin 1 points: worse")


def test_a_version_that_is_as_good_is_promoted_once_that_is_sure():
    few, many = Tally(1, 100), Tally(300, 30_000)
    slow = {0.1: Tally(1500, 30_000)}

    assert judge(Evidence(few), Evidence(many), Limits()).outcome == "go_on"
    verdict = judge(Evidence(many, slow), Evidence(many, slow), Limits())
    assert verdict.outcome == "promote"
    assert "errors 1 % (300 of 30,000) against 1 % (300 of 30,000)" in verdict.reason


def test_without_counts_nothing_is_decided():
    nothing = Evidence(Tally(0, 0))

    verdict = judge(nothing, nothing, Limits())

    assert verdict.outcome == "go_on"
    assert verdict.reason.startswith("errors: nothing to compare")


counts = st.integers(0, 300).flatmap(lambda total: st.integers(0, total).map(lambda bad: Tally(bad, total)))


@settings(deadline=None)
@given(candidate=counts, baseline=counts, margin=st.floats(0, 0.5))
def test_the_hypothesis_is_given_its_best(candidate, baseline, margin):
    """No pair of shares on a grid that obeys the hypothesis explains the counts better than what was divided by."""
    if not candidate.total or not baseline.total:
        return
    grid = np.linspace(0.001, 0.999, 120)
    one, other = np.meshgrid(grid, grid)
    with np.errstate(divide="ignore", invalid="ignore"):
        likely = (
            candidate.bad * np.log(one)
            + (candidate.total - candidate.bad) * np.log1p(-one)
            + baseline.bad * np.log(other)
            + (baseline.total - baseline.bad) * np.log1p(-other)
        )
    mixture = sum(
        math.lgamma(0.5 + t.bad) + math.lgamma(0.5 + t.total - t.bad) - math.lgamma(1 + t.total) - math.log(math.pi)
        for t in (candidate, baseline)
    )

    best = likely[one <= other + margin].max()
    assert log_e_worse(candidate, baseline, margin) <= mixture - best + 1e-6
    obeying = likely[one >= other + margin]
    if obeying.size:
        assert log_e_within(candidate, baseline, margin) <= mixture - obeying.max() + 1e-6


@pytest.mark.parametrize("value", [0.0, 1.0, math.nan])
def test_limits_are_shares(value):
    with pytest.raises(ConfigError, match="alpha: expected a share between 0 and 1"):
        Limits(alpha=value)
