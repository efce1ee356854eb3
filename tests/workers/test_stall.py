"""A worker that runs, and does not come where the others wait for it."""

import time

import tensorflow as tf

from tests.workers.conftest import STALL_CHECK_S
from tfpipe.distributed import World


def test_the_worker_that_is_waited_for_is_named_with_the_tensor(world: World, agreed, capfd):
    late = world.size - 1
    step = tf.function(lambda value: world.allreduce_sum([tf.identity(value, name="gradient_of_kernel")]))
    step(tf.ones(3))
    capfd.readouterr()

    if world.rank == late:
        time.sleep(3 * STALL_CHECK_S)
    step(tf.ones(3))
    # The chief hears of all tensors, and tells.
    told = world.broadcast_object(capfd.readouterr().err)

    def assertions():
        assert "waiting for remainder of ranks" in told
        assert f"{late}: [" in told
        assert "gradient_of_kernel" in told

    agreed(assertions)
