"""When a version is left alone, and when it is tried again."""

from hypothesis import given
from hypothesis import strategies as st

from serving.breaker import Breaker
from tests.serving.clocks import FakeClock


def broken(clock):
    breaker = Breaker(clock=clock)
    for _ in range(10):
        assert breaker.admit()
        breaker.record(failed=True)
    return breaker


def test_it_opens_after_ten_requests_of_which_half_failed():
    breaker = Breaker(clock=FakeClock())
    for index in range(9):
        breaker.record(failed=index % 2 == 0)
        assert not breaker.is_open

    breaker.record(failed=False)

    assert breaker.is_open
    assert not breaker.admit()


@given(st.lists(st.booleans(), max_size=60))
def test_one_that_fails_less_often_than_half_the_time_stays_closed(outcomes):
    breaker = Breaker(clock=FakeClock())
    for failed in outcomes:
        # Two successes for each.
        for outcome in (False, False, failed):
            breaker.record(failed=outcome)

    assert not breaker.is_open


def test_after_a_pause_one_is_let_through_and_closes_it():
    clock = FakeClock()
    breaker = broken(clock)
    clock.now_s += 1.0

    assert [breaker.admit(), breaker.admit()] == [True, False]
    assert breaker.is_open
    breaker.record(failed=False)
    assert not breaker.is_open
    assert breaker.admit()


def test_each_trial_that_fails_doubles_the_pause_up_to_half_a_minute():
    clock = FakeClock()
    breaker = broken(clock)
    pauses = []
    for _ in range(8):
        begun = clock.now_s
        while not breaker.admit():
            clock.now_s += 0.5
        pauses.append(clock.now_s - begun)
        breaker.record(failed=True)

    assert pauses == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


def test_what_was_under_way_when_it_opened_decides_nothing():
    clock = FakeClock()
    breaker = broken(clock)

    breaker.record(failed=False)

    assert breaker.is_open


def test_a_trial_whose_client_hung_up_is_followed_by_another():
    clock = FakeClock()
    breaker = broken(clock)
    clock.now_s += 1.0
    assert breaker.admit()
    clock.now_s += 1.0

    assert breaker.admit()
