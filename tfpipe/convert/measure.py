"""Accuracy, latency and batch invariance of ONNX model graphs."""

import logging
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tqdm import tqdm

from tfpipe.convert.trained import TrainedModel
from tfpipe.core.errors import DataError
from tfpipe.core.parity import BOUNDS
from tfpipe.core.signature import Array
from tfpipe.data.sources import Relabelled, Source, open_source, to_pixels
from tfpipe.data.splits import open_splits
from tfpipe.ort import OnnxModel, open_session

logger = logging.getLogger(__name__)

LATENCY_BATCHES = (1, 8)
# One, so that figures of machines with other core counts compare.
LATENCY_THREADS = 1
_WARM_UP_RUNS = 5
_BATCH = 32


@dataclass(frozen=True)
class Scores:
    """What model graphs answered on the validation data.

    Attributes:
        labels: (n,) int, the true classes of the samples that could be read.
        predictions: (n,) int by variant.
        num_corrupt: Samples that could not be read.
    """

    labels: Array
    predictions: Mapping[str, Array]
    num_corrupt: int

    def accuracy(self, variant: str) -> float:
        """Share of right answers, 0..1."""
        return float(np.mean(self.predictions[variant] == self.labels))

    def agreement(self, variant: str, reference: str = "fp32") -> float:
        """Share of answers that are the reference's, 0..1."""
        return float(np.mean(self.predictions[variant] == self.predictions[reference]))

    def joined(self, other: "Scores") -> "Scores":
        """These and what further variants answered on the same data."""
        return replace(self, predictions={**self.predictions, **other.predictions})


def open_validation(trained: TrainedModel) -> Source | None:
    """The samples that training measured its validation metrics on.

    Returns:
        They; None where neither the run nor the configuration has any.

    Raises:
        DataError: They are not there, or not the same any more.
    """
    data = trained.config.data
    place = data.validation_path or data.path
    try:
        source = _held_out(trained)
    except DataError as error:
        raise DataError(
            f"validation data at {place!r}, which the gate measures accuracy on, cannot be opened: {error} "
            "Give their new place: data.path=... or data.validation_path=..."
        ) from error
    if source is None and not trained.validation:
        return None
    found = {(source.identifier(i), source.label(i)) for i in range(len(source))} if source is not None else set()
    expected = set(trained.validation)
    labels = source.labels if source is not None else ()
    if tuple(labels) != trained.parts.labels or (expected and found != expected):
        raise DataError(
            f"validation data at {place!r}: expected the {len(expected)} samples that training was validated on, found "
            f"{len(found & expected)} of them and {len(found - expected)} others: the data have changed since."
        )
    return source


def _held_out(trained: TrainedModel) -> Source | None:
    data = trained.config.data
    if data.validation_path is None:
        return open_splits(trained.config).validation
    # By themselves: the training data may be gone.
    source = open_source(
        data.validation_path, columns=data.columns, split="validation", config=trained.config,
        where="data.validation_path",
    )  # fmt: skip
    return None if source is None else Relabelled(source, trained.parts.labels)


def predict(models: Mapping[str, OnnxModel], preprocess: OnnxModel, source: Source, config: Any) -> Scores:
    """Answer every sample of a source with every model.

    Args:
        models: Model graphs by variant.
        preprocess: The preprocessing graph.
        source: Labelled samples; unreadable ones are counted.
        config: The run's `data` section: largest image, and share of unreadable samples that is borne.

    Raises:
        DataError: Nothing can be read, or too much cannot.
    """
    reader = _RowReader(preprocess, source, config.max_image_pixels)
    labels: list[Array] = []
    predictions: dict[str, list[Array]] = {name: [] for name in models}
    with tqdm(total=len(source), desc="accuracy", unit=" samples", leave=False, disable=None) as progress:
        for rows, batch_labels, num_read in reader.batches():
            progress.update(num_read)
            if not len(rows):
                continue
            labels.append(batch_labels)
            for name, model in models.items():
                predictions[name].append(model.run({"input": rows})["probabilities"].argmax(axis=1))
    num_corrupt = len(source) - sum(map(len, labels))
    if not labels or num_corrupt > config.max_corrupt_fraction * len(source):
        raise DataError(
            f"validation data: {num_corrupt} of {len(source)} samples cannot be read, more than "
            f"data.max_corrupt_fraction={config.max_corrupt_fraction:g} allows; the first: {reader.first_error}"
        )
    return Scores(np.concatenate(labels), {name: np.concatenate(p) for name, p in predictions.items()}, num_corrupt)


def latency_ms(model: bytes, rows: Array, runs: int, *, disabled_optimizers: Sequence[str] = ()) -> dict[str, float]:
    """Median milliseconds by batch size, on the CPU with one thread and no other session at work.

    Args:
        model: The ONNX file's content.
        rows: (n, height, width, 3) float32, or (n, sequence) int32; repeated to fill a batch.
        runs: Timed runs per batch size.
        disabled_optimizers: Of the variant's recipe; see `open_session`.
    """
    session = open_session(model, provider="cpu", threads=LATENCY_THREADS, disabled_optimizers=disabled_optimizers)
    medians = {}
    for batch_size in LATENCY_BATCHES:
        batch = np.resize(rows, (batch_size, *rows.shape[1:]))
        medians[str(batch_size)] = round(statistics.median(_durations_ms(session, batch, runs)), 4)
    return medians


def is_batch_invariant(model: OnnxModel, rows: Array) -> bool:
    """Whether rows get the answers in a batch that they get alone, up to float32 rounding."""
    together = model.run({"input": rows})["probabilities"]
    alone = np.concatenate([model.run({"input": rows[i : i + 1]})["probabilities"] for i in range(len(rows))])
    bound = BOUNDS["fp32"]
    return bool(np.all(np.abs(together - alone) <= bound.atol + bound.rtol * np.abs(alone)))


def _durations_ms(session: OnnxModel, batch: Array, runs: int) -> Sequence[float]:
    durations = []
    for _ in range(_WARM_UP_RUNS + runs):
        started = time.perf_counter()
        session.run({"input": batch})
        durations.append((time.perf_counter() - started) * 1e3)
    return durations[_WARM_UP_RUNS:]


class _RowReader:
    """Decodes and preprocesses samples with several threads, as a service would each of them."""

    def __init__(self, preprocess: OnnxModel, source: Source, max_pixels: int) -> None:
        self._preprocess, self._source, self._max_pixels = preprocess, source, max_pixels
        self.first_error = ""

    def batches(self) -> Iterator[tuple[Array, Array, int]]:
        """(rows, labels, samples read) of each batch; unreadable samples are left out of the first two."""
        with ThreadPoolExecutor(thread_name_prefix="decode") as pool:
            for start in range(0, len(self._source), _BATCH):
                indices = range(start, min(start + _BATCH, len(self._source)))
                read = [entry for entry in pool.map(self._row, indices) if entry is not None]
                rows = np.stack([row for row, _ in read]) if read else np.empty((0,), np.float32)
                yield rows, np.array([label for _, label in read], np.int64), len(indices)

    def _row(self, index: int) -> tuple[Array, int] | None:
        try:
            sample, label = self._source.read(index)
            pixels = to_pixels(sample, self._max_pixels)
        except (DataError, OSError) as error:
            self.first_error = self.first_error or f"{self._source.identifier(index)}: {error}"
            return None
        return self._preprocess.run({"image": pixels})["input"], label
