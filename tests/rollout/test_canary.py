"""The controller of a canary, on a ledger in a folder and services whose counts are made here."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from serving.metrics import Metrics
from tfpipe.core.errors import ConfigError, RegistryError, RoutingConflictError
from tfpipe.core.routing import initial
from tfpipe.core.routing_changes import Origin, promote, split
from tfpipe.core.sequential import Limits
from tfpipe.ledger import FolderLedger
from tfpipe.rollout.canary import Controller, Plan
from tfpipe.rollout.evidence import Collected, read_counts
from tfpipe.rollout.replicas import ReplicaError

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
PLAN = Plan(steps=(0.1, 0.5), step_s=30.0, step_requests=50, poll_s=5.0)
URL = "http://127.0.0.1:1"


def exposition(counts):
    """Metrics of a service; counts by version: requests, errors, slow ones."""
    name = "tfpipe_routed_latency_seconds"
    lines = [f"# TYPE {name} histogram"]
    for version, (requests, errors, slow) in counts.items():
        who = f'model="m",version="{version}"'
        # Those that fail do so at once.
        for outcome, total, slower in (("answered", requests - errors, slow), ("failed", errors, 0)):
            labels = f'{who},outcome="{outcome}"'
            lines += [
                f'{name}_bucket{{{labels},le="0.1"}} {total - slower}',
                f'{name}_bucket{{{labels},le="+Inf"}} {total}',
                f"{name}_count{{{labels}}} {total}",
            ]
    return "\n".join(lines) + "\n"


class Traffic:
    """A service whose requests come as its ledger divides them, 1000 between two readings; versions fail as told."""

    def __init__(self, ledger, failing, *, slow=None):
        self.ledger, self.failing, self.slow = ledger, failing, slow or {}
        self.counts = {version: [0, 0, 0] for version in failing}
        self.now, self.pushed, self.silent = NOON, [], False
        self.rng = np.random.default_rng(0)
        self.on_sleep = lambda: None

    def metrics(self):
        return {URL: ReplicaError(f"{URL}: gone.")} if self.silent else {URL: exposition(self.counts)}

    def push(self, routing, *, without=()):
        self.pushed.append(routing)
        return {URL: ""}

    def sleep(self, seconds):
        self.now += timedelta(seconds=seconds)
        for version, share in self.ledger.newest("m").shares.items():
            requests = int(self.rng.binomial(1000, share))
            for index, rate in enumerate((None, self.failing[version], self.slow.get(version, 0.0))):
                self.counts[version][index] += requests if rate is None else int(self.rng.binomial(requests, rate))
        self.on_sleep()


@pytest.fixture
def ledger(tmp_path):
    ledger = FolderLedger(tmp_path)
    ledger.append(promote(initial("m", "1"), "2", Origin("ada", NOON)))
    return ledger


def controller(ledger, traffic, told=None):
    tell = (lambda _: None) if told is None else told.append
    return Controller(ledger, traffic, who="ada", sleep=traffic.sleep, now=lambda: traffic.now, tell=tell)


def run(ledger, traffic, told=None, plan=PLAN):
    one = controller(ledger, traffic, told)
    return one.run(one.begin(ledger.newest("m"), "3", plan, "try it"), plan)


def test_a_good_version_goes_up_by_steps_and_is_promoted(ledger):
    traffic = Traffic(ledger, {"2": 0.002, "3": 0.002})

    ended = run(ledger, traffic)

    assert (ended.what, ended.champion, ended.canary) == ("promote 3", "3", None)
    assert [one.what for one in ledger.history("m")] == [
        "promote 3", "canary 3 at 50 %", "canary 3 at 10 %", "promote 2",
    ]  # fmt: skip
    assert "errors 0." in ended.why
    assert "within the margin" in ended.why
    assert [one.revision for one in traffic.pushed] == [2, 3, 4]
    times = [datetime.fromisoformat(one.when) for one in reversed(ledger.history("m"))]
    assert times[2] - times[1] >= timedelta(seconds=30)


@pytest.mark.parametrize(
    ("failing", "slow", "reason"),
    [
        ({"2": 0.002, "3": 0.08}, {}, "errors "),
        ({"2": 0.002, "3": 0.002}, {"2": 0.05, "3": 0.4}, "slower than 0.1 s "),
    ],
)
def test_a_version_that_is_worse_is_rolled_back_and_the_ledger_says_why(ledger, failing, slow, reason):
    ended = run(ledger, Traffic(ledger, failing, slow=slow))

    assert (ended.shares, ended.withdrawn, ended.what) == ({"2": 1.0}, ("3",), "roll back from 3 to 2")
    assert ended.why.startswith(reason)
    assert "worse; e-value" in ended.why


def test_one_that_was_stopped_goes_on_from_the_ledger(ledger):
    traffic, polls = Traffic(ledger, {"2": 0.0, "3": 0.0}), []

    def stop():
        polls.append(1)
        if ledger.newest("m").canary.step == 1:
            raise KeyboardInterrupt

    traffic.on_sleep = stop
    with pytest.raises(KeyboardInterrupt):
        run(ledger, traffic)
    left = ledger.newest("m")
    assert left.shares == {"2": 0.5, "3": 0.5}
    counted = left.canary.evidence["sums"]["3"]["requests"]
    assert counted > 0
    traffic.on_sleep = lambda: None
    told = []

    ended = run(ledger, traffic, told)

    assert ended.champion == "3"
    assert len(ledger.history("m")) == 4
    assert Collected.from_dict(left.canary.evidence).of("3").errors.total == counted


def test_it_steps_aside_where_somebody_else_changes_the_routing(ledger):
    traffic = Traffic(ledger, {"2": 0.0, "3": 0.0})

    def interfere():
        if traffic.now == NOON + timedelta(seconds=15):
            ledger.append(split(ledger.newest("m"), {"2": 1.0}, Origin("bob", traffic.now, "stop that")))

    traffic.on_sleep = interfere
    ended = run(ledger, traffic)

    assert (ended.who, ended.canary) == ("bob", None)
    assert ledger.newest("m") == ended


def test_without_traffic_nothing_moves_and_who_is_silent_is_told(ledger):
    traffic, told = Traffic(ledger, {"2": 0.0, "3": 0.0}), []
    traffic.silent = True

    def stop():
        if traffic.now > NOON + timedelta(minutes=10):
            raise KeyboardInterrupt

    traffic.on_sleep = stop
    with pytest.raises(KeyboardInterrupt):
        run(ledger, traffic, told)

    assert ledger.newest("m").canary.step == 0
    assert told[-1].silent == (f"{URL}: gone.",)
    assert told[-1].verdict.outcome == "go_on"


def test_another_canary_under_way_is_refused(ledger):
    traffic = Traffic(ledger, {"2": 0.0, "3": 0.0})
    one = controller(ledger, traffic)
    one.begin(ledger.newest("m"), "3", PLAN, "")

    with pytest.raises(RegistryError, match="expected none under way, but that of version 3 is"):
        one.begin(ledger.newest("m"), "4", PLAN, "")
    with pytest.raises(RoutingConflictError, match="expected one under way, found none"):
        one.run(promote(ledger.newest("m"), "2", Origin("ada", NOON)), PLAN)


def test_counts_are_read_by_version_and_survive_a_service_that_starts_again():
    collected = Collected()
    for counts in ({"3": (100, 1, 5)}, {"3": (150, 2, 9)}, {"3": (20, 1, 0)}):
        collected.add(URL, read_counts(exposition(counts), "m"))

    evidence = Collected.from_dict(collected.to_dict()).of("3")

    # 50 and 1 since the beginning, then 20 and 1 of the one that was started again.
    assert (evidence.errors.bad, evidence.errors.total) == (2, 70)
    assert (evidence.slower[0.1].bad, evidence.slower[0.1].total) == (4, 70)
    assert read_counts(exposition({"3": (1, 0, 0)}), "other") == {}


def test_what_is_no_doing_of_the_version_and_what_named_it_do_not_count():
    metrics = Metrics()
    for code in (200, 400, 429, 500, 503, 504):
        for is_routed in (True, False):
            metrics.record_request(model="m", version="1", code=code, latency_s=0.2, is_routed=is_routed)
    for is_routed in (True, False, False):
        metrics.record_feedback(model="m", version="1", correct=False, is_routed=is_routed)

    counts = read_counts(metrics.exposition().decode(), "m")["1"]

    assert (counts["requests"], counts["errors"], counts["wrong"]) == (4, 2, 1)
    assert (counts["within/0.1"], counts["within/0.25"]) == (0, 4)


@pytest.mark.parametrize("change", [{"step_s": 0.0}, {"poll_s": float("nan")}, {"step_requests": 0}])
def test_a_plan_that_cannot_be_is_refused(change):
    with pytest.raises(ConfigError, match=next(iter(change))):
        Plan(limits=Limits(), **change)
