import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.errors import LimitError
from serving.keys import ANYBODY, Caller
from serving.limits import Bucket, KeyLimits

steps = st.lists(st.floats(0, 3), min_size=1, max_size=60)
rates = st.floats(0.05, 50)


@given(rate=rates, steps=steps)
def test_no_span_of_time_lets_in_more_than_its_rate_and_one_burst(rate, steps):
    bucket, now_s, taken = Bucket.full(rate, 0.0), 0.0, []
    for step in steps:
        now_s += step
        if bucket.take(now_s) == 0:
            taken.append(now_s)

    for first, begin in enumerate(taken):
        for last in range(first, len(taken)):
            assert last - first + 1 <= rate * (taken[last] - begin) + max(1.0, rate) + 1e-6


@given(rate=rates, steps=steps)
def test_whoever_waits_as_long_as_told_is_let_in(rate, steps):
    bucket, now_s = Bucket.full(rate, 0.0), 0.0
    for step in steps:
        now_s += step
        wait_s = bucket.take(now_s)
        if wait_s > 0:
            now_s += wait_s + 1e-9
            assert bucket.take(now_s) == 0


@given(rate=rates, count=st.integers(1, 100))
def test_whoever_keeps_to_the_rate_is_never_refused(rate, count):
    bucket = Bucket.full(rate, 0.0)

    assert all(bucket.take(index / rate + index * 1e-9) == 0 for index in range(count))


def test_a_clock_that_stands_still_gives_nothing():
    bucket = Bucket.full(2.0, 5.0)

    assert [bucket.take(5.0) for _ in range(3)] == [0, 0, 0.5]
    assert bucket.take(4.0) == 0.5


def test_each_key_has_its_own_rate():
    limits = KeyLimits(1.0)
    slow, fast = Caller("slow"), Caller("fast", rate_limit=3.0)

    for caller, times in ((slow, 1), (fast, 3)):
        for _ in range(times):
            limits.enter(caller, 0.0)
        with pytest.raises(LimitError, match=rf"API key '{caller.name}': expected at most {times} requests a second"):
            limits.enter(caller, 0.0)


def test_without_keys_all_share_the_rate():
    limits = KeyLimits(1.0)
    limits.enter(ANYBODY, 0.0)

    with pytest.raises(LimitError, match="service: expected at most 1 requests a second") as caught:
        limits.enter(ANYBODY, 0.5)

    assert caught.value.details == {"rate_limit": 1.0, "retry_after_s": 0.5}


def test_without_a_limit_there_is_none():
    limits = KeyLimits(None)

    for _ in range(1000):
        limits.enter(ANYBODY, 0.0)


def test_a_changed_rate_counts_at_once():
    limits = KeyLimits(None)
    limits.enter(Caller("a", rate_limit=1.0), 0.0)

    for _ in range(5):
        limits.enter(Caller("a", rate_limit=5.0), 0.0)


@given(events=st.lists(st.booleans(), max_size=50), most=st.integers(1, 4))
def test_no_more_are_in_flight_than_a_key_may(events, most):
    limits, caller, active = KeyLimits(None), Caller("a", concurrency=most), 0
    for arrives in events:
        if arrives:
            with contextlib.ExitStack() if active < most else pytest.raises(LimitError):
                limits.enter(caller, 0.0)
                active += 1
        elif active:
            limits.leave(caller)
            active -= 1
        assert active <= most


def test_one_too_many_at_once_takes_nothing_of_the_rate():
    limits, caller = KeyLimits(2.0), Caller("a", concurrency=1)
    limits.enter(caller, 0.0)
    with pytest.raises(LimitError, match="at most 1 requests at once"):
        limits.enter(caller, 0.0)

    limits.leave(caller)

    limits.enter(caller, 0.0)
