"""Samples of named tensors: from an .npz file, or generated."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tfpipe.convert.tensor_function import TensorFunction
from tfpipe.core.errors import BundleError, ConversionError, DataError
from tfpipe.core.golden_tensors import read_npz
from tfpipe.core.signature import Array, TensorSpec

_GENERATED = 8
# Lengths of named axes that are tried, until the model takes them: convolutions need some to work on.
_LENGTHS = (7, 32, 96, 224)

Sample = Mapping[str, Array]


def read_tensor_samples(path: Path, specs: Sequence[TensorSpec], count: int) -> list[Sample]:
    """Rows of an .npz file, each as a batch of one.

    Args:
        path: The file: for each input an array of samples, its first axis the samples'.
        specs: What the model takes.
        count: Most rows.

    Raises:
        DataError: Not such a file, or other names, dtypes, shapes or numbers of samples.
    """
    if not path.is_file():
        raise DataError(f"conversion.calibration_path: expected an .npz file, found none at {str(path)!r}.")
    try:
        arrays = read_npz(path)
    except BundleError as error:
        raise DataError(f"conversion.calibration_path: {error}") from error
    if set(arrays) != {spec.name for spec in specs}:
        raise DataError(
            f"{path}: expected an array for each input, {', '.join(spec.name for spec in specs)}; received "
            f"{', '.join(sorted(arrays)) or 'none'}."
        )
    lengths = {name: len(array) if array.ndim else 0 for name, array in arrays.items()}
    if len(set(lengths.values())) != 1 or not all(lengths.values()):
        raise DataError(f"{path}: expected as many samples of each input, at least one; received {lengths}.")
    for spec in specs:
        _check(spec, arrays[spec.name], path)
    rows = range(min(count, next(iter(lengths.values()))))
    return [{name: array[row : row + 1] for name, array in arrays.items()} for row in rows]


def generated_samples(function: TensorFunction) -> list[Sample]:
    """Random arrays that the model takes; the same on every machine.

    Floats are in 0..1, bytes 0..255, other whole numbers small enough to be indices.

    Raises:
        ConversionError: It takes none of them.
    """
    failure: Exception | None = None
    for length in _LENGTHS:
        samples = [_generate(function, np.random.default_rng(seed), 1 + seed % 3, length) for seed in range(_GENERATED)]
        try:
            for sample in samples:
                function.reference(sample)
        # Whatever the model raises on arrays that make no sense to it.
        except Exception as error:
            failure = error
        else:
            return samples
    raise ConversionError(
        f"model: expected it to answer random arrays, but it fails: {str(failure).strip().splitlines()[0]} Give arrays "
        "that it takes: conversion.calibration_path=FILE.npz."
    ) from failure


def in_batches(samples: Sequence[Sample], size: int) -> list[Sample]:
    """Samples of one shape put together, `size` at a time."""
    batches: list[Sample] = []
    for start in range(0, len(samples) - size + 1, size):
        together = samples[start : start + size]
        if all(sample[name].shape == together[0][name].shape for sample in together for name in sample):
            batches.append({name: np.concatenate([sample[name] for sample in together]) for name in together[0]})
    return batches


def _generate(function: TensorFunction, random: np.random.Generator, batch: int, length: int) -> Sample:
    return {spec.name: _random(spec, random, batch, length, function.largest_index) for spec in function.inputs}


def _random(spec: TensorSpec, random: np.random.Generator, batch: int, length: int, largest: int) -> Array:
    shape = [batch if axis == "batch" else length if isinstance(axis, str) else axis for axis in spec.shape]
    dtype = np.dtype(spec.dtype)
    if dtype == np.bool_:
        values: Any = random.random(shape) < 0.5
    elif dtype in (np.dtype(np.uint8), np.dtype(np.int8)):
        values = random.integers(0, np.iinfo(dtype).max, shape)
    elif np.issubdtype(dtype, np.integer):
        values = random.integers(0, largest, shape)
    else:
        values = random.random(shape)
    return np.asarray(values).astype(dtype)


def _check(spec: TensorSpec, array: Array, path: Path) -> None:
    fits = len(array.shape) == len(spec.shape) and all(
        isinstance(axis, str) or axis == length for axis, length in zip(spec.shape[1:], array.shape[1:], strict=True)
    )
    if array.dtype != np.dtype(spec.dtype) or not fits or spec.shape[:1] != ("batch",):
        expected = "(samples, " + ", ".join(str(axis) for axis in spec.shape[1:]) + ")"
        raise DataError(
            f"{path}: {spec.name!r}: expected {spec.dtype} of shape {expected}, received {array.dtype} of shape "
            f"{array.shape}."
        )
