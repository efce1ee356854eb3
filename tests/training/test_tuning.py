"""Horovod's settings as they follow from a run; tests/workers restarts it with them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfpipe.distributed import World
from tfpipe.training.observers import StepRecord
from tfpipe.training.tuning import INITIAL, HorovodTuning, choose, worth_a_restart

MIB = 2**20
RESNET50 = [4 * 160_000] * 161


@pytest.mark.parametrize(
    ("step_s", "cycle_ms"), [(0.002, 1.0), (0.05, 1.0), (0.25, 5.0), (0.5, 10.0), (1.0, 20.0), (60.0, 20.0)]
)
def test_the_cycle_is_a_fiftieth_of_the_step_within_bounds(step_s, cycle_ms):
    assert choose(step_s=step_s, gradient_bytes=RESNET50).cycle_ms == cycle_ms


@given(st.floats(1e-4, 1e3), st.lists(st.integers(0, 2**32), max_size=40))
def test_a_group_of_gradients_fits_the_buffer_and_every_gradient_the_cache(step_s, sizes):
    chosen = choose(step_s=step_s, gradient_bytes=sizes)

    # Five groups at most: one of them holds a fifth of all bytes or more.
    assert chosen.fusion_bytes >= sum(sizes) / 5
    assert chosen.fusion_bytes >= max(sizes, default=0)
    assert chosen.fusion_bytes % MIB == 0
    assert chosen.cache_capacity >= 2 * len(sizes)


def test_horovod_reads_the_settings_from_the_environment():
    chosen = choose(step_s=0.333, gradient_bytes=[2**30, 1, 1, 1, 1])

    assert chosen.variables() == {
        "HOROVOD_CYCLE_TIME": "6.7",
        "HOROVOD_FUSION_THRESHOLD": str(2**30),
        "HOROVOD_CACHE_CAPACITY": "8192",
    }
    assert choose(step_s=1.0, gradient_bytes=[1]).variables() == {
        "HOROVOD_CYCLE_TIME": "20",
        "HOROVOD_CACHE_CAPACITY": "8192",
    }


@pytest.mark.parametrize(
    ("step_s", "sizes", "worth"),
    [(0.01, RESNET50, False), (0.07, RESNET50, False), (0.08, RESNET50, True), (0.01, [2**30], True)],
)
def test_a_restart_must_be_worth_its_pause(step_s, sizes, worth):
    assert worth_a_restart(choose(step_s=step_s, gradient_bytes=sizes), INITIAL) is worth


class Alone(World):
    """One worker, who tells whether Horovod was restarted."""

    restarts = 0

    def restart(self, variables):
        type(self).restarts += 1


def test_one_worker_has_nothing_to_tune():
    tuning = HorovodTuning(Alone(), gradient_bytes=RESNET50)

    for step in range(20):
        tuning.on_step(StepRecord(step, 1.0, 8.0, 1.0, 0.1, 0.0, 1.0))

    assert worth_a_restart(choose(step_s=1.0, gradient_bytes=RESNET50), INITIAL)
    assert Alone.restarts == 0
