import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfpipe.data.sharding import epoch_order, num_steps, rank_epoch, rank_share, uniforms

seeds = st.integers(0, 2**31 - 1)
epochs = st.integers(0, 10**6)


@given(num_samples=st.integers(0, 500), seed=seeds, epoch=epochs)
def test_an_epoch_orders_every_sample_once(num_samples, seed, epoch):
    order = epoch_order(num_samples, seed=seed, epoch=epoch)

    assert sorted(order.tolist()) == list(range(num_samples))


def test_the_order_is_the_same_on_every_machine_and_version():
    assert epoch_order(8, seed=1, epoch=2).tolist() == [6, 1, 5, 0, 4, 3, 7, 2]


@pytest.mark.parametrize(("seed", "epoch"), [(1, 0), (0, 1)])
def test_another_seed_or_epoch_gives_another_order(seed, epoch):
    first = epoch_order(100, seed=0, epoch=0)

    assert not np.array_equal(first, epoch_order(100, seed=seed, epoch=epoch))


@given(size=st.integers(0, 100), world_size=st.integers(1, 16))
def test_shares_in_rank_order_are_the_batch_and_differ_by_one_at_most(size, world_size):
    batch = np.arange(size)
    shares = [rank_share(batch, rank=rank, world_size=world_size) for rank in range(world_size)]

    assert np.concatenate(shares).tolist() == batch.tolist()
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@given(
    num_samples=st.integers(1, 200),
    world_size=st.integers(1, 6),
    extra=st.integers(0, 40),
    first_step=st.integers(0, 5),
    seed=seeds,
)
def test_cut_into_shares_an_epoch_is_the_slices_of_the_order(num_samples, world_size, extra, first_step, seed):
    batch_size = world_size + extra
    steps = num_steps(num_samples, batch_size)
    cut = []
    for rank in range(world_size):
        indices, weights, share = rank_epoch(
            num_samples, batch_size=batch_size, seed=seed, epoch=3, rank=rank, world_size=world_size,
            first_step=first_step,
        )  # fmt: skip
        pieces = [slice(start, start + share) for start in range(0, len(indices), share)]
        assert len(pieces) == max(0, steps - first_step)
        cut.append([indices[piece][weights[piece] > 0].tolist() for piece in pieces])

    order = epoch_order(num_samples, seed=seed, epoch=3).tolist()
    for position, step in enumerate(range(first_step, steps)):
        together = [index for rank in cut for index in rank[position]]
        assert together == order[step * batch_size : (step + 1) * batch_size]


@given(seed=seeds, epoch=epochs, indices=st.lists(st.integers(0, 10**9), min_size=1, max_size=20))
def test_the_draws_of_a_sample_do_not_depend_on_its_neighbours(seed, epoch, indices):
    together = uniforms(np.array(indices), seed=seed, epoch=epoch, num_draws=5)
    alone = [uniforms(np.array([index]), seed=seed, epoch=epoch, num_draws=5)[0] for index in indices]

    assert np.array_equal(together, np.array(alone))
    assert ((together >= 0) & (together < 1)).all()


def test_draws_are_uniform_and_uncorrelated():
    draws = uniforms(np.arange(20_000), seed=0, epoch=0, num_draws=4)

    # 20,000 draws: the mean of a uniform varies by 0.002, a correlation by 0.007; five standard deviations allowed.
    assert np.abs(draws.mean(axis=0) - 0.5).max() < 0.011
    assert np.abs(np.corrcoef(draws.T) - np.eye(4)).max() < 0.036
