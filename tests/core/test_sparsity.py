import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from tfpipe.core.sparsity import num_pruned, prune_smallest, zeros

# Few distinct values: ties are what goes wrong.
kernels = npst.arrays(
    np.float32,
    npst.array_shapes(max_dims=4, max_side=6),
    elements=st.one_of(st.sampled_from([0.0, -0.0, 0.5, -0.5, 1.0]), st.floats(-2, 2, width=32)),
)


@given(weights=kernels, sparsity=st.floats(0, 1))
def test_exactly_the_asked_number_of_smallest_weights_becomes_zero(weights, sparsity):
    pruned = prune_smallest(weights, sparsity)

    assert zeros(pruned) == max(zeros(weights), num_pruned(weights.size, sparsity))
    gone, left = np.abs(weights[pruned == 0]), np.abs(weights[pruned != 0])
    assert not gone.size or not left.size or gone.max() <= left.min()
    assert np.array_equal(pruned[pruned != 0], weights[pruned != 0])
    assert (pruned.shape, pruned.dtype) == (weights.shape, weights.dtype)


@given(weights=kernels, sparsities=st.tuples(st.floats(0, 1), st.floats(0, 1)))
def test_what_is_pruned_stays_pruned_at_a_higher_sparsity(weights, sparsities):
    low, high = sorted(sparsities)

    once = prune_smallest(weights, low)

    assert np.array_equal(prune_smallest(once, low), once)
    assert np.array_equal(prune_smallest(once, high), prune_smallest(weights, high))


def test_of_equal_weights_the_first_go():
    assert prune_smallest(np.array([1.0, -1.0, 1.0, 2.0], np.float32), 0.5).tolist() == [0.0, 0.0, 1.0, 2.0]
