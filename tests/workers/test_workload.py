"""Which samples each worker processes, read off the real input pipeline."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.samples import ArraySource, index_of
from tfpipe.data.pipeline import RowReader, training_batches
from tfpipe.data.sharding import epoch_order
from tfpipe.preprocessing.layers import Resize

READERS = {}


def reader_of(num_samples, corrupt):
    key = (num_samples, tuple(sorted(corrupt)))
    if key not in READERS:
        source = ArraySource(num_samples, corrupt=corrupt)
        READERS[key] = RowReader(source, Resize(2, 2), max_pixels=100, cache="memory", threads=1)
    return READERS[key]


# Feature: deep-learning-pipeline, Property 1: Workload distribution
def test_every_worker_takes_its_share_of_each_global_batch(world, agreed):
    @settings(max_examples=100, deadline=None, derandomize=True, database=None)
    @given(
        num_samples=st.integers(1, 60),
        batch_size=st.integers(world.size, 24),
        seed=st.integers(0, 2**31 - 1),
        epoch=st.integers(0, 1000),
        corrupt=st.sets(st.integers(0, 59), max_size=3),
    )
    def holds(num_samples, batch_size, seed, epoch, corrupt):
        corrupt = {index for index in corrupt if index < num_samples}
        reader = reader_of(num_samples, corrupt)
        mine = [
            (
                [index_of(row) for row, weight in zip(b.rows.numpy(), b.weights.numpy(), strict=True) if weight],
                float(b.num_corrupt),
            )
            for b in training_batches(reader, batch_size=batch_size, seed=seed, epoch=epoch, world=world)
        ]
        everyone = world.gather_objects(mine)

        def assertions():
            order = epoch_order(num_samples, seed=seed, epoch=epoch).tolist()
            steps = -(-num_samples // batch_size)
            assert [len(steps_of_rank) for steps_of_rank in everyone] == [steps] * world.size
            for step in range(steps):
                batch = order[step * batch_size : (step + 1) * batch_size]
                shares = [len(rank[step][0]) + int(rank[step][1]) for rank in everyone]
                # About 1/N each: as even as it goes; none left out of a full batch.
                assert sum(shares) == len(batch)
                assert max(shares) - min(shares) <= 1
                processed = [index for rank in everyone for index in rank[step][0]]
                assert processed == [index for index in batch if index not in corrupt]

        agreed(assertions)

    holds()
