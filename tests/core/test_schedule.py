import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfpipe.core.schedule import LearningRateSchedule, SparsitySchedule, scaled_learning_rate


def schedule(shape, **changes):
    values = {
        "peak": 0.1, "shape": shape, "warmup_steps": 4, "total_steps": 20, "restart_steps": 4, "final_fraction": 0.1,
    }  # fmt: skip
    return LearningRateSchedule(**{**values, **changes})


def test_warm_up_is_linear_and_ends_at_the_peak():
    assert [schedule("constant").at(step) for step in range(5)] == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1])


def test_cosine_falls_from_the_peak_to_the_final_fraction_and_stays():
    cosine = schedule("cosine")

    assert cosine.at(4) == pytest.approx(0.1)
    assert cosine.at(12) == pytest.approx(0.055)
    assert [cosine.at(20), cosine.at(99)] == pytest.approx([0.01, 0.01])


def test_restarts_come_after_4_then_8_more_steps():
    restarts = schedule("cosine_restarts", warmup_steps=0, final_fraction=0.0)

    assert [restarts.at(step) for step in (0, 4, 12, 28)] == pytest.approx([0.1] * 4)
    assert restarts.at(8) == pytest.approx(0.05)
    assert restarts.at(11) < 0.005


@given(
    shape=st.sampled_from(["constant", "cosine", "cosine_restarts"]),
    step=st.integers(0, 10**6),
    warmup=st.integers(0, 100),
    restart=st.integers(0, 1000),
    final=st.floats(0, 1),
)
def test_the_rate_lies_between_zero_and_the_peak(shape, step, warmup, restart, final):
    rate = schedule(shape, warmup_steps=warmup, restart_steps=restart, final_fraction=final).at(step)

    assert 0.0 <= rate <= 0.1 * (1 + 1e-12)
    assert math.isfinite(rate)


def test_the_rate_scales_with_the_batch_only_where_a_reference_is_given():
    assert scaled_learning_rate(0.1, batch_size=512, reference_batch_size=256) == 0.2
    assert scaled_learning_rate(0.1, batch_size=512, reference_batch_size=None) == 0.1


# Sparsity -------------------------------------------------------------------------------------------------------------


def test_sparsity_rises_by_the_cubic_of_zhu_and_gupta_and_stays():
    cubic = SparsitySchedule(target=0.8, start_step=10, end_step=110, every_steps=25)

    # 1 - (3/4)**3, 1 - (2/4)**3 and 1 - (1/4)**3 of the target.
    levels = [0.0, 0.4625, 0.7, 0.7875, 0.8]
    assert [cubic.at(step) for step in (10, 35, 60, 85, 110)] == pytest.approx(levels)
    assert [cubic.at(step) for step in (0, 34, 59, 109, 10**6)] == pytest.approx([0.0, 0.0, 0.4625, 0.7875, 0.8])


@given(
    target=st.floats(0, 1),
    start=st.integers(0, 1000),
    length=st.integers(0, 1000),
    every=st.integers(1, 1000),
    steps=st.tuples(st.integers(0, 3000), st.integers(0, 3000)),
)
def test_sparsity_never_falls_and_is_the_target_from_the_end_on(target, start, length, every, steps):
    schedule = SparsitySchedule(target, start, start + length, every)
    first, second = sorted(steps)

    assert 0.0 <= schedule.at(first) <= schedule.at(second) <= target
    assert schedule.at(start + length) == target
    assert length == 0 or schedule.at(start) == 0.0
