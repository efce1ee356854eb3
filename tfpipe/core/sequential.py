"""Is a version worse than another? A sequential test that may be looked at after every request.

Everything that is compared is a share: of requests that failed, that took longer than some time, that were answered
wrongly. For each, an e-value says how strongly the counts speak against a hypothesis: a mixture over what the shares
could be, divided by the best that the hypothesis can do. While the hypothesis holds, the chance that it ever, however
often one looks, exceeds 1/alpha is at most alpha; so a test that stops when it does is right with 1 - alpha.

Source: Wasserman, Ramdas & Balakrishnan 2020, "Universal inference", PNAS 117 (29), section 7 (sequential testing);
Ville 1939 for the bound; Robbins 1970, Ann. Math. Statist. 41 (5), for the mixture. Jeffreys' prior, Beta(1/2, 1/2).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from tfpipe.core.errors import ConfigError

_PRIOR = 0.5
# Halvings of [0, 1]: more than a float tells apart.
_HALVINGS = 60


@dataclass(frozen=True)
class Tally:
    """Counts of one version.

    Attributes:
        bad: Requests that failed, were slow, were answered wrongly; 0..total.
        total: Requests.
    """

    bad: float
    total: float

    @property
    def share(self) -> float:
        """NaN where nothing was counted."""
        return self.bad / self.total if self.total else math.nan


@dataclass(frozen=True)
class Evidence:
    """What was counted of one version since the beginning.

    Attributes:
        errors: Requests that failed by the version's doing.
        slower: By a time in seconds, requests that took longer.
        wrong: Answers that feedback says are wrong, of those on which there was some.
    """

    errors: Tally
    slower: Mapping[float, Tally] = field(default_factory=dict)
    wrong: Tally = Tally(0, 0)


@dataclass(frozen=True)
class Limits:
    """When a version is worse, and how sure one must be.

    Attributes:
        alpha: Chance of rolling back a version that is within all margins; and, for each measure, of promoting one
            that is not.
        errors: How much larger the share of failed requests may be.
        slower: How much larger the share of requests over any one time may be.
        wrong: How much larger the share of wrong answers may be.
    """

    alpha: float = 0.05
    errors: float = 0.005
    slower: float = 0.05
    wrong: float = 0.01

    def __post_init__(self) -> None:
        for name in ("alpha", "errors", "slower", "wrong"):
            value = getattr(self, name)
            if not 0 < value < 1:
                raise ConfigError(f"{name}: expected a share between 0 and 1, received {value:g}.")


@dataclass(frozen=True)
class Verdict:
    """What the evidence says.

    Attributes:
        outcome: "roll_back": surely worse. "promote": surely not worse, as far as was measured. "go_on": neither yet.
        reason: In numbers.
    """

    outcome: Literal["promote", "roll_back", "go_on"]
    reason: str


def judge(candidate: Evidence, baseline: Evidence, limits: Limits) -> Verdict:
    """Compare a version with another that has answered at the same time.

    Errors and times must be shown to be within their margins before "promote"; wrong answers can only forbid, as
    feedback may never come.
    """
    measures = _measures(candidate, baseline, limits)
    # Three chances to be wrong share alpha.
    needed = math.log(len(measures) / limits.alpha)
    for measure in measures:
        if measure.log_worse >= needed:
            return Verdict("roll_back", f"{measure.text}: worse; {_e_value(measure.log_worse, needed)}")
    open_ones = [one for one in measures if one.must_be_shown and one.log_within < -math.log(limits.alpha)]
    if not open_ones:
        shown = [one for one in measures if one.must_be_shown or one.log_within > 0]
        return Verdict("promote", "; ".join(f"{one.text}: within the margin" for one in shown))
    least = min(open_ones, key=lambda one: one.log_within)
    return Verdict("go_on", f"{least.text}; {_e_value(least.log_within, -math.log(limits.alpha))}")


def log_e_worse(candidate: Tally, baseline: Tally, margin: float) -> float:
    """Evidence against "the candidate's share is at most the baseline's plus the margin"; ln of an e-value."""
    return _log_e(candidate, baseline, margin, candidate.share <= baseline.share + margin)


def log_e_within(candidate: Tally, baseline: Tally, margin: float) -> float:
    """Evidence against "the candidate's share is at least the baseline's plus the margin"; ln of an e-value."""
    return _log_e(candidate, baseline, margin, candidate.share >= baseline.share + margin)


@dataclass(frozen=True)
class _Measure:
    text: str
    log_worse: float
    log_within: float
    must_be_shown: bool = True


def _measures(candidate: Evidence, baseline: Evidence, limits: Limits) -> list[_Measure]:
    measures = [
        _of_tallies("errors", candidate.errors, baseline.errors, limits.errors),
        _of_tallies("wrong answers", candidate.wrong, baseline.wrong, limits.wrong, must_be_shown=False),
    ]
    times = sorted(candidate.slower.keys() & baseline.slower.keys())
    if times:
        each = [
            _of_tallies(f"slower than {time:g} s", candidate.slower[time], baseline.slower[time], limits.slower)
            for time in times
        ]
        # The mean of e-values is one; promotion wants each of them.
        worst = max(each, key=lambda one: one.log_worse)
        least = min(each, key=lambda one: one.log_within)
        log_worse = _log_mean([one.log_worse for one in each])
        text = worst.text if log_worse > 0 else least.text
        measures.append(_Measure(text, log_worse, least.log_within))
    return measures


def _of_tallies(name: str, candidate: Tally, baseline: Tally, margin: float, *, must_be_shown: bool = True) -> _Measure:
    if not candidate.total or not baseline.total:
        return _Measure(f"{name}: nothing to compare", 0.0, 0.0, must_be_shown)
    text = f"{name} {_counted(candidate)} against {_counted(baseline)}, margin {100 * margin:g} points"
    return _Measure(
        text, log_e_worse(candidate, baseline, margin), log_e_within(candidate, baseline, margin), must_be_shown
    )


def _log_e(candidate: Tally, baseline: Tally, margin: float, holds: bool) -> float:
    mixture = _log_mixture(candidate) + _log_mixture(baseline)
    # The likelihood is concave: where the best shares do not obey the hypothesis, the best that do lie on its edge.
    share = baseline.share if holds else _edge(candidate, baseline, margin)
    other = candidate.share if holds else share + margin
    return mixture - _log_likelihood(baseline, share) - _log_likelihood(candidate, other)


def _edge(candidate: Tally, baseline: Tally, margin: float) -> float:
    """The baseline's share that fits best where the candidate's is larger by just the margin."""
    low, high = max(0.0, -margin), min(1.0, 1.0 - margin)
    for _ in range(_HALVINGS):
        share = (low + high) / 2
        slope = _slope(baseline, share) + _slope(candidate, share + margin)
        low, high = (share, high) if slope > 0 else (low, share)
    return (low + high) / 2


def _slope(tally: Tally, share: float) -> float:
    good = tally.total - tally.bad
    up = tally.bad / share if tally.bad else 0.0
    return up - (good / (1 - share) if good else 0.0)


def _log_likelihood(tally: Tally, share: float) -> float:
    good = tally.total - tally.bad
    likely = tally.bad * math.log(share) if tally.bad else 0.0
    return likely + (good * math.log1p(-share) if good else 0.0)


def _log_mixture(tally: Tally) -> float:
    return _log_beta(_PRIOR + tally.bad, _PRIOR + tally.total - tally.bad) - _log_beta(_PRIOR, _PRIOR)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _log_mean(logs: Sequence[float]) -> float:
    largest = max(logs)
    return largest + math.log(sum(math.exp(one - largest) for one in logs) / len(logs))


def _counted(tally: Tally) -> str:
    return f"{100 * tally.share:.3g} % ({tally.bad:,.0f} of {tally.total:,.0f})"


def _e_value(log_e: float, needed: float) -> str:
    return f"e-value {math.exp(min(log_e, 100.0)):.3g} of {math.exp(needed):.3g} needed"
