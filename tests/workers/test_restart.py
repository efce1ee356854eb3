"""Horovod started anew under other settings, in the middle of a job."""

import tensorflow as tf

from tfpipe.distributed import World
from tfpipe.training.tuning import HorovodSettings


def test_a_compiled_step_goes_on_after_horovod_was_restarted_with_other_settings(world: World, agreed):
    step = tf.function(lambda value: world.allreduce_sum([value, 2 * value, tf.ones(3)]))
    before = [tensor.numpy().tolist() for tensor in step(tf.constant(1.0 + world.rank))]

    # Several times: the workers must not find one another's earlier addresses.
    for cycle_ms in (1.0, 20.0, 3.0):
        world.restart({"HOROVOD_CYCLE_TIME": str(cycle_ms)})
    world.restart(HorovodSettings(cycle_ms=2.5, fusion_bytes=128 * 2**20, cache_capacity=9000).variables())

    after = [tensor.numpy().tolist() for tensor in step(tf.constant(1.0 + world.rank))]
    everyone = world.gather_objects((before, after))
    total = world.size * (world.size + 1) / 2

    def assertions():
        assert all(rank == ([total, 2 * total, [world.size] * 3],) * 2 for rank in everyone)

    agreed(assertions)
