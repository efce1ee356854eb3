"""Which samples make a step, on any number of workers: pure functions of (seed, epoch, step, rank)."""

import numpy as np

# Constants of SplitMix64. Source: Steele, Lea & Flood 2014, "Fast splittable pseudorandom number
# generators", section 5.
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)

# So many batches are sorted by length together: enough for lengths to agree. An epoch has at least so many pieces, or
# each epoch of a small data set would have the same batches.
_GROUPED_BATCHES, _LEAST_PIECES = 50, 4


def epoch_order(num_samples: int, *, seed: int, epoch: int) -> np.ndarray:
    """The permutation of sample indices of one epoch.

    Sorted by a hash of (seed, epoch, index) rather than drawn from a generator: it is then the same on every machine
    and NumPy version.

    Returns:
        (num_samples,) int64.
    """
    return np.argsort(_hash(seed, epoch, np.arange(num_samples, dtype=np.uint64)), kind="stable")


def grouped_order(lengths: np.ndarray, *, batch_size: int, seed: int, epoch: int) -> np.ndarray:
    """The permutation of one epoch in which the samples of a step are of about the same length.

    The epoch's own permutation, cut into pieces of some dozen batches; each piece is sorted by length and its batches
    are then put in random order. A short last batch has the permutation's last samples, of any length: of a sorted
    piece it would be the longest, which so weighed more than others in every epoch.

    Args:
        lengths: (n,) int, of each sample.
        batch_size: Samples of a step, over all workers.
        seed: Of the run.
        epoch: From 0.

    Returns:
        (n,) int64.
    """
    order = epoch_order(len(lengths), seed=seed, epoch=epoch)
    num_full = len(order) // batch_size
    whole, rest = np.split(order, [num_full * batch_size])
    piece = batch_size * max(1, min(_GROUPED_BATCHES, num_full // _LEAST_PIECES))
    pieces = [whole[start : start + piece] for start in range(0, len(whole), piece)]
    by_length = np.concatenate([p[np.argsort(lengths[p], kind="stable")] for p in pieces] or [whole])
    batches = by_length.reshape(num_full, batch_size)
    # Within a step not by length: workers take its parts in order, and the last would wait for no one.
    place = np.argsort(order, kind="stable")
    batches = np.take_along_axis(batches, np.argsort(place[batches], axis=1), axis=1)
    mixed = batches[epoch_order(num_full, seed=seed, epoch=epoch)]
    return np.concatenate([mixed.reshape(-1), rest])


def num_steps(num_samples: int, batch_size: int) -> int:
    """Steps of an epoch; the last may be smaller."""
    return -(-num_samples // batch_size)


def rank_share(batch: np.ndarray, *, rank: int, world_size: int) -> np.ndarray:
    """The part of a global batch that one worker takes: contiguous, sizes differ by at most one.

    Args:
        batch: (n,) indices.
        rank: 0 <= rank < world_size.
        world_size: Number of workers.

    Returns:
        (m,) indices; in rank order the shares are the batch. Earlier ranks take the larger ones.
    """
    small, larger = divmod(len(batch), world_size)
    start = rank * small + min(rank, larger)
    return batch[start : start + small + (rank < larger)]


def step_order(
    num_samples: int, *, batch_size: int, seed: int, epoch: int, lengths: np.ndarray | None = None
) -> np.ndarray:
    """(num_samples,) int64: the order in which the steps of an epoch take samples; `grouped_order` with `lengths`."""
    if lengths is None:
        return epoch_order(num_samples, seed=seed, epoch=epoch)
    return grouped_order(lengths, batch_size=batch_size, seed=seed, epoch=epoch)


def rank_epoch(
    num_samples: int,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    rank: int,
    world_size: int,
    first_step: int = 0,
    steps: int | None = None,
    lengths: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray, int]:
    """All that one worker reads in an epoch, step after step, from `first_step` up to `steps` (None: all).

    Where samples have `lengths`, those of a step are of about the same; see `grouped_order`.

    Returns:
        (indices int64, weights float32, share): to be cut into pieces of `share`, one a step; the last may be smaller.
        A worker that the last step leaves without a sample gets that step's first with weight 0: it must take part.
    """
    order = step_order(num_samples, batch_size=batch_size, seed=seed, epoch=epoch, lengths=lengths)
    share = -(-(batch_size - rank) // world_size)
    pieces, weights = [], []
    for step in range(first_step, num_steps(num_samples, batch_size) if steps is None else steps):
        batch = order[step * batch_size : (step + 1) * batch_size]
        piece = rank_share(batch, rank=rank, world_size=world_size)
        weight = np.ones(len(piece), np.float32)
        if not len(piece):
            piece, weight = batch[:1], np.zeros(1, np.float32)
        pieces.append(piece)
        weights.append(weight)
    if not pieces:
        return np.empty(0, np.int64), np.empty(0, np.float32), share
    return np.concatenate(pieces), np.concatenate(weights), share


def uniforms(indices: np.ndarray, *, seed: int, epoch: int, num_draws: int) -> np.ndarray:
    """Random draws that belong to samples, whoever reads them.

    Args:
        indices: (n,) sample indices.
        seed: Of the run.
        epoch: From 0.
        num_draws: Draws a sample.

    Returns:
        (n, num_draws) float32 in [0, 1).
    """
    keys = _hash(seed, epoch, indices.astype(np.uint64))[:, None]
    lanes = np.arange(1, num_draws + 1, dtype=np.uint64)[None, :]
    with np.errstate(over="ignore"):
        bits = _mix(keys + lanes * _GOLDEN)
    # 24 bits, as many as float32 holds below 1.
    return (bits >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)


def _hash(seed: int, epoch: int, indices: np.ndarray) -> np.ndarray:
    with np.errstate(over="ignore"):
        key = _mix(np.asarray([seed], np.uint64) + _GOLDEN)
        key = _mix(key + np.uint64(epoch) * _GOLDEN + _GOLDEN)
        return _mix(key + indices * _GOLDEN)


def _mix(z: np.ndarray) -> np.ndarray:
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    mixed: np.ndarray = z ^ (z >> np.uint64(31))
    return mixed
