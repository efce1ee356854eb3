"""How the gradients of all workers become the one gradient of a step."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from tfpipe.distributed import World

Reduction = Literal["mean", "adasum"]
Compression = Literal["none", "fp16", "bf16"]

_SIXTEEN_BITS = {"fp16": tf.float16, "bf16": tf.bfloat16}


def reduce_gradients(
    gradients: Sequence[Any],
    sums: Any,
    world: World,
    *,
    reduction: Reduction = "mean",
    compression: Compression = "none",
) -> tuple[list[Any], Any]:
    """Bring gradients together over all examples of all workers.

    Weighted by examples rather than by worker: shares of a batch differ by one, and corrupt samples weigh nothing.

    Args:
        gradients: Each the sum of this worker's per-example gradients; dense or `tf.IndexedSlices`.
        sums: (n,) float32 to be summed over the workers with them; the first is the weight of this worker's examples.
        world: The workers.
        reduction: "mean" over all examples; "adasum" combines the workers' own means by `adasum`.
        compression: Dense gradients travel as float16 or bfloat16 and are added up in float32; with "mean" only.

    Returns:
        The gradients, sparse where they were, and the reduced sums; bit-equal on every worker.
    """
    if reduction == "adasum":
        return _combine_means(gradients, sums, world)
    sparse = [position for position, gradient in enumerate(gradients) if isinstance(gradient, tf.IndexedSlices)]
    dense = [position for position in range(len(gradients)) if position not in sparse]
    tensors = [tf.convert_to_tensor(gradients[position]) for position in dense]
    if compression == "none" or world.size == 1:
        *totals, reduced_sums = world.allreduce_sum([*tensors, sums])
    else:
        reduced_sums = world.allreduce_sum([sums])[0]
        totals = _unpack(_sum_compressed(_pack(tensors), world, _SIXTEEN_BITS[compression]), tensors)
    reduced = dict(zip(dense, totals, strict=True))
    reduced |= {position: _sum_slices(gradients[position], world) for position in sparse}
    factor = 1.0 / _divisor(reduced_sums[0])
    return [scaled(reduced[position], factor) for position in range(len(gradients))], reduced_sums


def scaled(gradient: Any, factor: Any) -> Any:
    """A gradient, dense or sparse, times a number."""
    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(scaled(gradient.values, factor), gradient.indices, gradient.dense_shape)
    return gradient * tf.cast(factor, gradient.dtype)


def adasum(first: Any, second: Any, dots: Any) -> Any:
    """Combine two gradients: their sum where they are orthogonal, their mean where they are parallel.

    Source: Maleki et al. 2020, arXiv:2006.02924, equation 2.

    Args:
        first: (n,) float32.
        second: (n,) float32.
        dots: (3, n) float32: first · second, first · first and second · second of the tensor that each value is of.

    Returns:
        (n,) float32.
    """
    product, first_square, second_square = tf.unstack(dots)
    # A gradient of zeros adds nothing, and takes nothing away.
    keep_first = 1.0 - tf.math.divide_no_nan(product, 2.0 * first_square)
    keep_second = 1.0 - tf.math.divide_no_nan(product, 2.0 * second_square)
    return keep_first * first + keep_second * second


def _divisor(weight: Any) -> Any:
    # Every example of a step corrupt: nothing to learn from, rather than a division by zero.
    return tf.maximum(weight, tf.cast(weight <= 0.0, tf.float32))


def _sum_slices(gradient: tf.IndexedSlices, world: World) -> tf.IndexedSlices:
    """Rows of all workers, each index once: what is sent grows with the rows of a batch, not with the table."""
    indices, values = world.allgather(gradient.indices), world.allgather(gradient.values)
    unique, position = tf.unique(indices)
    rows = tf.math.unsorted_segment_sum(values, position, tf.size(unique))
    return tf.IndexedSlices(rows, unique, gradient.dense_shape)


def _pack(tensors: Sequence[Any]) -> Any:
    return tf.concat([tf.reshape(tf.cast(tensor, tf.float32), [-1]) for tensor in tensors], axis=0)


def _unpack(flat: Any, like: Sequence[Any]) -> list[Any]:
    sizes = [int(np.prod(tensor.shape)) for tensor in like]
    pieces = tf.split(flat[: sum(sizes)], sizes)
    return [tf.cast(tf.reshape(p, t.shape), t.dtype) for p, t in zip(pieces, like, strict=True)]


def _exchange(flat: Any, world: World) -> Any:
    """(n,) on each worker -> (workers, ceil(n / workers)): this worker's part of everybody's vector."""
    part = -(-int(flat.shape[0]) // world.size)
    padded = tf.pad(flat, [[0, part * world.size - int(flat.shape[0])]])
    return tf.reshape(world.alltoall(padded), (world.size, part))


def _sum_compressed(flat: Any, world: World, dtype: tf.DType) -> Any:
    """Sum (n,) float32 vectors, sent as 16 bits: each worker adds up its part in float32, and all collect the parts.

    Not an allreduce of float16: Gloo adds those one by one in software, rounds after every addition, and knows no
    bfloat16.
    """
    # No arithmetic is done on the way, so that any 16-bit type will do.
    sent = tf.bitcast(tf.cast(flat, dtype), tf.float16)
    received = tf.bitcast(_exchange(sent, world), dtype)
    part = tf.reduce_sum(tf.cast(received, tf.float32), axis=0)
    collected = world.allgather(tf.bitcast(tf.cast(part, dtype), tf.float16))
    return tf.cast(tf.bitcast(collected, dtype), tf.float32)


def _combine_means(gradients: Sequence[Any], sums: Any, world: World) -> tuple[list[Any], Any]:
    """Adasum over a tree of workers, tensor by tensor; each worker computes its part of all of them.

    Each sends and receives what an allreduce would, whatever the number of workers.
    """
    tensors = [tf.convert_to_tensor(gradient) for gradient in gradients]
    mean = _pack(tensors) / _divisor(sums[0])
    vectors = tf.unstack(_exchange(mean, world), num=world.size)
    owner = _owners([int(np.prod(tensor.shape)) for tensor in tensors], world)
    while len(vectors) > 1:
        pairs = list(zip(vectors[::2], vectors[1::2], strict=False))
        partial = tf.stack(
            [
                [tf.math.unsorted_segment_sum(product, owner, len(tensors)) for product in (x * y, x * x, y * y)]
                for x, y in pairs
            ]
        )
        dots = tf.gather(world.allreduce_sum([partial])[0], owner, axis=-1)
        combined = [adasum(x, y, dots[i]) for i, (x, y) in enumerate(pairs)]
        # With an odd number one waits for the next level.
        vectors = combined + vectors[2 * len(pairs) :]
    return _unpack(world.allgather(vectors[0]), tensors), world.allreduce_sum([sums])[0]


def _owners(sizes: Sequence[int], world: World) -> Any:
    """For each value of this worker's part, the tensor that it belongs to; the padding to the last."""
    total = sum(sizes)
    part = -(-total // world.size)
    bounds = np.clip(np.cumsum([0, *sizes]) - world.rank * part, 0, part)
    counts = np.diff(bounds)
    counts[-1] += part - counts.sum()
    return tf.repeat(tf.range(len(sizes)), counts)
