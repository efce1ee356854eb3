"""Waits before what has failed is started again."""

from hypothesis import given
from hypothesis import strategies as st

from serving.backoff import Backoff


def test_the_first_wait_is_none_and_the_next_ones_double():
    backoff = Backoff()

    assert [backoff.delay_s(float(now)) for now in range(9)] == [0, 0.5, 1, 2, 4, 8, 16, 30, 30]


def test_what_ran_for_long_is_started_at_once_again():
    backoff = Backoff()
    backoff.delay_s(0.0)
    backoff.delay_s(1.0)

    assert backoff.delay_s(61.5) == 0


@given(st.lists(st.floats(0, 60), max_size=3000))
def test_no_wait_is_longer_than_half_a_minute(gaps):
    backoff, now_s = Backoff(), 0.0

    for gap in gaps:
        now_s += gap
        assert 0 <= backoff.delay_s(now_s) <= 30
