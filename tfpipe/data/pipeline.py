"""Samples -> the tensors of each step: decode, resize, cache, batch, prefetch."""

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import numpy as np
import psutil
import tensorflow as tf

from tfpipe.core.errors import DataError
from tfpipe.data.sharding import rank_epoch, uniforms
from tfpipe.data.sources import Source, to_pixels
from tfpipe.distributed import World
from tfpipe.preprocessing.layers import DRAWS, Resize

logger = logging.getLogger(__name__)

# Share of the free memory that cached rows may take; the model and its activations need the rest.
_CACHE_SHARE = 0.25
_PREFETCH_STEPS = 4
_WARNED_SAMPLES = 5


class Batch(NamedTuple):
    """One worker's part of one step. n: its readable samples, or one empty row of weight 0 where there are none."""

    rows: Any  # (n, height, width, 3) float32, resized, on 0..255; of texts (n, tokens) int32
    labels: Any  # (n, ...) int32, as the task has them
    weights: Any  # (n,) float32
    draws: Any  # (n, draws) float32: what augmentation is made of
    num_corrupt: Any  # () float32: samples of this step that could not be read


class Reader(Protocol):
    """Reads the samples of a source as rows of the model's input.

    Attributes:
        source: The samples.
        row_spec: Of a batch of rows.
        label_spec: Of their labels.
        num_draws: Random draws that augmentation takes for a sample.
        lengths: (samples,) int where rows have lengths of their own, else None.
        corrupt: What is wrong with the samples that could not be read so far, by index.
    """

    row_spec: tf.TensorSpec
    label_spec: tf.TensorSpec
    num_draws: int
    corrupt: dict[int, str]

    @property
    def source(self) -> Source: ...

    @property
    def lengths(self) -> np.ndarray | None: ...

    def read(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Read rows.

        Args:
            indices: (n,) sample indices.

        Returns:
            Rows as `row_spec` says, and (n,) bool: which of them could be read. The others hold nothing.
        """
        ...

    def labels(self, indices: np.ndarray) -> np.ndarray:
        """Labels as `label_spec` says."""
        ...


class RowReader:
    """Reads images as resized rows, each decoded once where memory allows; a `Reader`.

    Args:
        source: The samples.
        resize: The model's own layer, so that training resizes as serving does.
        max_pixels: Larger images count as corrupt.
        cache: "auto", "memory" or "none".
        processes: Workers on this machine, which share its memory.
        threads: Images decoded at the same time.
    """

    def __init__(
        self,
        source: Source,
        resize: Resize,
        *,
        max_pixels: int,
        cache: str,
        processes: int = 1,
        threads: int | None = None,
    ) -> None:
        self.source = source
        self.max_pixels = max_pixels
        self.row_shape = (resize.height, resize.width, 3)
        self.row_spec = tf.TensorSpec((None, *self.row_shape), tf.float32)
        self.label_spec = tf.TensorSpec((None,), tf.int32)
        self.num_draws = len(DRAWS)
        self.lengths: np.ndarray | None = None
        self.corrupt: dict[int, str] = {}
        self._labels = np.fromiter((source.label(i) for i in range(len(source))), np.int32, len(source))
        self._resize = tf.function(
            lambda images: resize(images),
            input_signature=[tf.TensorSpec((None, None, None, 3), tf.uint8)],
            autograph=False,
        )
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
        self._rows: np.ndarray | None = None
        self._known = np.zeros(len(source), bool)
        if cache == "memory" or (cache == "auto" and self._fits(processes)):
            # Untouched pages take no memory until a row is written.
            self._rows = np.empty((len(source), *self.row_shape), np.float32)

    @property
    def caches(self) -> bool:
        """Whether rows are kept in memory."""
        return self._rows is not None

    def read(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Read rows.

        Args:
            indices: (n,) sample indices.

        Returns:
            (n, height, width, 3) float32 on 0..255, and (n,) bool: which of them could be read. The others hold zeros.
        """
        if self._rows is None:
            return self._decode(indices)
        missing = np.unique(indices[~self._known[indices]])
        if len(missing):
            self._rows[missing], readable = self._decode(missing)
            self._known[missing[readable]] = True
        return self._rows[indices], self._known[indices]

    def labels(self, indices: np.ndarray) -> np.ndarray:
        """(n,) int32 class numbers."""
        picked: np.ndarray = self._labels[indices]
        return picked

    def _fits(self, processes: int) -> bool:
        needed = len(self.source) * int(np.prod(self.row_shape)) * 4 * processes
        return needed <= psutil.virtual_memory().available * _CACHE_SHARE

    def _decode(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        rows = np.zeros((len(indices), *self.row_shape), np.float32)
        pictures = list(self._pool.map(self._pixels, indices.tolist()))
        by_shape: dict[tuple[int, ...], list[int]] = {}
        for position, picture in enumerate(pictures):
            if picture is not None:
                by_shape.setdefault(picture.shape, []).append(position)
        for positions in by_shape.values():
            same_size = [picture for p in positions if (picture := pictures[p]) is not None]
            rows[positions] = self._resize(np.stack(same_size)).numpy()
        return rows, np.array([picture is not None for picture in pictures], bool)

    def _pixels(self, index: int) -> np.ndarray | None:
        if index in self.corrupt:
            return None
        try:
            sample, label = self.source.read(index)
            self._labels[index] = label
            return to_pixels(sample, self.max_pixels)
        except (DataError, OSError) as error:
            note_corrupt(self, index, error)
            return None


def note_corrupt(reader: Reader, index: int, error: Exception) -> None:
    """Count a sample that cannot be read, and warn of the first few."""
    reader.corrupt[index] = str(error)
    if len(reader.corrupt) <= _WARNED_SAMPLES:
        logger.warning("skipped corrupt sample %s: %s", reader.source.identifier(index), error)
    elif len(reader.corrupt) == _WARNED_SAMPLES + 1:
        logger.warning("further corrupt samples are counted, not listed.")


def batch_specs(reader: Reader) -> Batch:
    """What the tensors of a batch are."""
    return Batch(
        rows=reader.row_spec,
        labels=reader.label_spec,
        weights=tf.TensorSpec((None,), tf.float32),
        draws=tf.TensorSpec((None, reader.num_draws), tf.float32),
        num_corrupt=tf.TensorSpec((), tf.float32),
    )


def example_batch(reader: Reader, size: int) -> Batch:
    """Samples for a step whose result counts for nothing, repeated where there are too few: of middling length."""
    num_samples, lengths = len(reader.source), reader.lengths
    order = np.arange(num_samples) if lengths is None else np.argsort(lengths, kind="stable")
    start = max(0, (num_samples - size) // 2)
    picked = np.resize(order[start : start + size], size)
    rows, _ = reader.read(picked)
    draws = np.full((size, reader.num_draws), 0.5, np.float32)
    return Batch(rows, reader.labels(picked), np.ones(size, np.float32), draws, np.float32(0))


def training_batches(
    reader: Reader,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    world: World,
    first_step: int = 0,
    steps: int | None = None,
) -> Iterator[Batch]:
    """This worker's part of every step of an epoch, from `first_step` up to `steps` (None: all).

    Read ahead by background threads while the model computes.
    """
    indices, weights, share = rank_epoch(
        len(reader.source), batch_size=batch_size, seed=seed, epoch=epoch, rank=world.rank, world_size=world.size,
        first_step=first_step, steps=steps, lengths=reader.lengths,
    )  # fmt: skip
    return _batches(
        reader, indices, weights, share, draws=lambda i: uniforms(i, seed=seed, epoch=epoch, num_draws=reader.num_draws)
    )


def evaluation_batches(reader: Reader, *, batch_size: int, world: World) -> Iterator[Batch]:
    """This worker's share of a data set, every sample once; maybe none. In order, or from short to long."""
    order = np.arange(len(reader.source)) if reader.lengths is None else np.argsort(reader.lengths, kind="stable")
    indices = order[world.rank :: world.size]
    no_draws = np.zeros((1, reader.num_draws), np.float32)
    return _batches(
        reader, indices, np.ones(len(indices), np.float32), max(1, batch_size // world.size),
        draws=lambda i: np.repeat(no_draws, len(i), axis=0),
    )  # fmt: skip


def _batches(
    reader: Reader,
    indices: np.ndarray,
    weights: np.ndarray,
    share: int,
    *,
    draws: Callable[[np.ndarray], np.ndarray],
) -> Iterator[Batch]:
    def load(picked: np.ndarray, weight: np.ndarray) -> tuple[Any, ...]:
        rows, readable = reader.read(picked)
        num_corrupt = np.float32((~readable & (weight > 0)).sum())
        if not readable.all():
            kept = np.flatnonzero(readable)
            if not len(kept):
                # Nothing readable: the worker still takes part in the step, with weight 0.
                kept, weight = np.array([0]), np.zeros(1, np.float32)
                return rows[kept], reader.labels(picked[:1]), weight, draws(picked[:1]), num_corrupt
            rows, picked, weight = rows[kept], picked[kept], weight[kept]
        return rows, reader.labels(picked), weight, draws(picked), num_corrupt

    @tf.autograph.experimental.do_not_convert
    def load_tensors(picked: Any, weight: Any) -> tuple[Any, ...]:
        tensors = tf.numpy_function(load, [picked, weight], [spec.dtype for spec in specs], stateful=False)
        for tensor, spec in zip(tensors, specs, strict=True):
            tensor.set_shape(spec.shape)
        return tuple(tensors)

    specs = batch_specs(reader)
    steps = tf.data.Dataset.from_tensor_slices((indices, weights)).batch(share)
    # Two at a time keep the decoders busy across the end of a step; more would decode further ahead than is used.
    loaded = steps.map(load_tensors, num_parallel_calls=2, deterministic=True).prefetch(_PREFETCH_STEPS)
    return (Batch(*tensors) for tensors in loaded)
