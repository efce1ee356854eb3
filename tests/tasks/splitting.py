"""What holds for the tally of every task."""

import numpy as np


def summed_over_pieces(task, labels, logits, weights, *, seed):
    """Whether the tallies of the pieces of a shuffled batch add up to that of the batch."""
    random = np.random.default_rng(seed)
    predictions = np.asarray(task.predictions(labels, task.probabilities(logits)))
    whole = task.tally(labels, predictions, weights)
    order = random.permutation(len(labels))
    cuts = np.sort(random.integers(0, len(labels) + 1, 3))
    pieces = [task.tally(labels[i], predictions[i], weights[i]) for i in np.split(order, cuts)]
    return whole.shape == task.tally_shape() and np.allclose(sum(pieces), whole, rtol=0, atol=1e-9)
