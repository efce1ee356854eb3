import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfpipe.data.sharding import epoch_order, grouped_order, num_steps, rank_epoch, rank_share, uniforms

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


lengths_of_texts = st.lists(st.integers(1, 60), max_size=300).map(lambda values: np.array(values, np.int64))


@given(lengths=lengths_of_texts, batch_size=st.integers(1, 20), seed=seeds, epoch=epochs)
def test_an_epoch_by_length_has_every_sample_once(lengths, batch_size, seed, epoch):
    order = grouped_order(lengths, batch_size=batch_size, seed=seed, epoch=epoch)

    assert sorted(order.tolist()) == list(range(len(lengths)))


@given(
    lengths=lengths_of_texts,
    world_size=st.integers(1, 6),
    extra=st.integers(0, 14),
    first_step=st.integers(0, 5),
    seed=seeds,
)
def test_by_length_too_the_workers_together_take_the_steps_of_one(lengths, world_size, extra, first_step, seed):
    plan = {"batch_size": world_size + extra, "seed": seed, "epoch": 3, "first_step": first_step, "lengths": lengths}
    alone, _, _ = rank_epoch(len(lengths), **plan, rank=0, world_size=1)
    steps = []
    for rank in range(world_size):
        indices, weights, share = rank_epoch(len(lengths), **plan, rank=rank, world_size=world_size)
        starts = range(0, len(indices), share)
        steps.append([indices[i : i + share][weights[i : i + share] > 0].tolist() for i in starts])

    # A run resumed in mid-epoch, too, goes on with the samples that are left.
    order = grouped_order(lengths, batch_size=world_size + extra, seed=seed, epoch=3)
    assert [index for step in zip(*steps, strict=True) for part in step for index in part] == alone.tolist()
    assert alone.tolist() == order[first_step * (world_size + extra) :].tolist()


def lengths_by_step(lengths, batch_size, **options):
    order = grouped_order(lengths, batch_size=batch_size, **options)
    return lengths[order[: len(order) // batch_size * batch_size]].reshape(-1, batch_size)


def test_the_lengths_of_a_step_are_close_together():
    lengths = np.random.default_rng(0).integers(1, 513, 8_000)

    spreads = np.ptp(lengths_by_step(lengths, 32, seed=0, epoch=0), axis=1)
    at_random = np.ptp(lengths[epoch_order(8_000, seed=0, epoch=0)].reshape(-1, 32), axis=1)

    # A piece has 50 batches of 32: one of them spans about a fiftieth of the lengths.
    assert np.median(spreads) <= 512 / 50 * 2
    assert np.median(at_random) > 400


def test_steps_do_not_go_from_short_to_long():
    steps = lengths_by_step(np.random.default_rng(0).integers(1, 513, 8_000), 32, seed=0, epoch=0).mean(axis=1)

    # 250 steps: a correlation varies by 0.06; four standard deviations allowed.
    assert abs(np.corrcoef(steps, np.arange(len(steps)))[0, 1]) < 0.25


def test_no_worker_gets_always_the_long_ones():
    # A step spans many lengths where texts are few.
    lengths = np.random.default_rng(0).integers(1, 513, 60)
    of_epochs = [lengths_by_step(lengths, 12, seed=0, epoch=epoch).reshape(-1, 4, 3) for epoch in range(20)]

    by_worker = np.concatenate(of_epochs).mean(axis=(0, 2))

    assert np.ptp(by_worker) < 0.1 * by_worker.mean()


def test_a_short_last_batch_is_the_last_and_of_no_length_in_particular():
    lengths = np.arange(1, 101)
    last = [lengths[grouped_order(lengths, batch_size=8, seed=0, epoch=epoch)[-4:]] for epoch in range(200)]

    # The mean of 1..100 is 50.5, that of 800 of them varies by 1.
    assert abs(np.mean(last) - 50.5) < 5


@pytest.mark.parametrize("num_samples", [64, 2_000])
def test_another_epoch_or_seed_puts_other_samples_together(num_samples):
    lengths = np.random.default_rng(0).integers(1, 513, num_samples)

    def batches(**options):
        order = grouped_order(lengths, batch_size=8, **options)
        return {frozenset(batch) for batch in order.reshape(-1, 8).tolist()}

    first = batches(seed=0, epoch=0)
    assert batches(seed=0, epoch=0) == first
    assert not first & batches(seed=0, epoch=1)
    assert not first & batches(seed=1, epoch=0)


def test_the_order_by_length_is_the_same_on_every_machine_and_version():
    order = grouped_order(np.array([5, 1, 4, 1, 5, 9, 2, 6, 5, 3] * 2), batch_size=2, seed=1, epoch=2)

    assert order.tolist() == [3, 11, 15, 16, 8, 4, 6, 1, 10, 2, 19, 12, 5, 0, 7, 18, 9, 17, 14, 13]
