"""What a version was asked and has answered of late, beside what its model was trained on.

Rows are looked at where they are there anyway: decoded, tokenised, answered. Up to a window's worth is taken as it
comes, from then on a share of them that renews the window in ten minutes: a service that is asked ten thousand times a
second pays for two. Odd inputs are counted one by one.
"""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tfpipe.core.bundle import Bundle
from tfpipe.core.drift import LEAST_ROWS, ks, ks_noise, psi, psi_limit, verdict
from tfpipe.core.errors import BundleError
from tfpipe.core.observed import LABEL, Answers, Groups, image_numbers, text_ids, text_numbers
from tfpipe.core.signature import Array
from tfpipe.core.statistics import FILE, Feature, Of, Statistics

if TYPE_CHECKING:
    from serving.engine import Row

logger = logging.getLogger(__name__)

Clock = Callable[[], float]

# A window is renewed in so long where there is traffic for it, and forgets what is older than an hour.
_RENEWED_S, _OLDEST_S = 600.0, 3600.0
# What preprocessing stretches or shrinks beyond recognition.
_STRETCHED = 4.0
# A text of which the vocabulary lacks so much is none of its language.
_UNKNOWN_RATIO = 0.5


@dataclass(frozen=True)
class Reading:
    """How far a feature of the window lies from training.

    Attributes:
        feature: Of training.
        rows: In the window.
        counts: (bins,) of the window.
        mean: Of the window's numbers; 0 for categories.
        psi: See `tfpipe.core.drift.psi`.
        limit: From which `psi` on it has drifted.
        ks: See `tfpipe.core.drift.ks`; None for categories.
        ks_noise: What that does by chance; None for categories.
    """

    feature: Feature
    rows: int
    counts: Array
    mean: float
    psi: float
    limit: float
    ks: float | None
    ks_noise: float | None

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        feature = self.feature
        return {
            "name": feature.name,
            "of": feature.of,
            "unit": feature.unit,
            "bins": feature.bins,
            "expected": list(feature.counts),
            "actual": self.counts.tolist(),
            "expected_mean": feature.mean if feature.is_number else None,
            "expected_std": feature.std if feature.is_number else None,
            "actual_mean": self.mean if feature.is_number else None,
            "rows": self.rows,
            "psi": self.psi,
            "psi_limit": self.limit,
            "ks": self.ks,
            "ks_noise": self.ks_noise,
            "verdict": verdict(self.psi, self.limit, self.rows),
        }


class _Window:
    """The newest rows: numbers and counts of categories of each."""

    def __init__(self, features: Sequence[Feature], rows: int, clock: Clock) -> None:
        self.numbers = [feature for feature in features if feature.is_number]
        self.category = next((feature for feature in features if not feature.is_number), None)
        self._clock, self._interval_s = clock, _RENEWED_S / rows
        self._lock = threading.Lock()
        self._next_s = clock() - _RENEWED_S
        self._times = np.full(rows, -np.inf)
        self._values = np.zeros((rows, len(self.numbers)))
        bins = 0 if self.category is None else len(self.category.counts)
        self._counts = np.zeros((rows, bins), np.int32)
        self._place = 0

    def takes(self, rows: int = 1) -> bool:
        """Whether rows are to be looked at; where they are, they count as such."""
        now_s = self._clock()
        # Not under the lock: where two threads ask at once, a row more is looked at.
        next_s = self._next_s
        if next_s > now_s:
            return False
        self._next_s = max(next_s, now_s - _RENEWED_S) + rows * self._interval_s
        return True

    def add(self, numbers: Sequence[float], counts: Array | None) -> None:
        with self._lock:
            place = self._place
            self._place = (place + 1) % len(self._times)
            self._times[place] = self._clock()
            self._values[place] = numbers
            if counts is not None:
                self._counts[place] = counts

    def readings(self) -> list[Reading]:
        with self._lock:
            kept = self._times > self._clock() - _OLDEST_S
            values, counts = self._values[kept], self._counts[kept].sum(axis=0)
        rows = len(values)
        found = []
        for column, feature in enumerate(self.numbers):
            some = values[:, column]
            found.append(_reading(feature, rows, feature.histogram(some), float(some.mean()) if rows else 0.0))
        if self.category is not None:
            found.append(_reading(self.category, rows, counts, 0.0))
        return found


class DriftWatch:
    """One version's traffic; any thread may tell and ask it.

    Args:
        statistics: Of its training; None where the bundle has none: odd inputs are counted all the same.
        labels: Of its model.
        answers: How its answers are counted.
        row_shape: Of its rows; () where they have no fixed one.
        rows: Of the window; at least 1.
        clock: Seconds that only go forward.
    """

    def __init__(
        self,
        statistics: Statistics | None,
        labels: Sequence[str],
        answers: Answers,
        *,
        rows: int,
        row_shape: Sequence[int] = (),
        clock: Clock = time.monotonic,
    ) -> None:
        self.statistics = statistics
        self._answers, self._row_shape = answers, tuple(row_shape)
        self._odd: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._windows: dict[Of, _Window] = {}
        if statistics is None:
            return
        for of in ("inputs", "predictions"):
            if features := statistics.of(of):
                self._windows[of] = _Window(features, rows, clock)
        self._vocabulary = Groups(statistics.vocabulary)
        self._labels = Groups(_known_labels(statistics, answers.names(labels)))

    def received(self, sample: Any, rows: Sequence[Array]) -> None:
        """Look at an input.

        Args:
            sample: As the decoder made it: (height, width, 3) uint8, or a text.
            rows: What became of it.
        """
        if isinstance(sample, str):
            self._received_text(sample, rows)
        else:
            self._received_image(sample)

    def answered(self, rows: "Sequence[Row]") -> None:
        """Look at answers."""
        window = self._windows.get("predictions")
        if window is None or not window.takes(len(rows)):
            return
        for row in rows:
            given = row.probabilities
            window.add([self._answers.confidence(given)], self._labels.count(self._answers.classes(given)))

    def readings(self) -> list[Reading]:
        """Every feature, those of inputs first."""
        return [reading for window in self._windows.values() for reading in window.readings()]

    def odd(self) -> dict[str, int]:
        """Inputs out of the ordinary, by kind, since the version was loaded."""
        return dict(self._odd)

    def _note(self, kind: str) -> None:
        with self._lock:
            self._odd[kind] += 1

    def _received_image(self, pixels: Array) -> None:
        height, width = pixels.shape[:2]
        if height > _STRETCHED * width or width > _STRETCHED * height:
            self._note("stretched_image")
        if len(self._row_shape) == 3 and height < self._row_shape[0] and width < self._row_shape[1]:
            self._note("small_image")
        window = self._windows.get("inputs")
        if window is not None and window.takes():
            window.add(image_numbers(pixels), None)

    def _received_text(self, text: str, rows: Sequence[Array]) -> None:
        if not text or text.isspace():
            self._note("empty_text")
        statistics, window = self.statistics, self._windows.get("inputs")
        if statistics is None or window is None:
            return
        ids = text_ids(rows)
        numbers = text_numbers(text, ids, statistics.unknown_id)
        if numbers[-1] >= _UNKNOWN_RATIO:
            self._note("unknown_text")
        if window.takes():
            window.add(numbers, self._vocabulary.count(ids))


def open_drift(bundle: Bundle, *, rows: int) -> DriftWatch | None:
    """The watch of a bundle that answers files or texts.

    Args:
        bundle: Checked.
        rows: Of the window; 0: nothing is watched.

    Returns:
        None where nothing is.

    Raises:
        BundleError: Its statistics cannot be read.
    """
    if not rows:
        return None
    manifest = bundle.manifest
    statistics = read_statistics(bundle)
    if statistics is None:
        fields = {"model": manifest.model_name, "version": manifest.model_version}
        logger.info("drift is not watched: the bundle has no statistics.json", extra={"fields": fields})
    shape = tuple(length for length in manifest.inputs[0].shape[1:] if isinstance(length, int))
    answers = Answers(manifest.multi_label, manifest.task == "token_classification")
    return DriftWatch(statistics, manifest.labels, answers, rows=rows, row_shape=shape)


def read_statistics(bundle: Bundle) -> Statistics | None:
    """The statistics of a bundle; None of one that has none.

    Raises:
        BundleError: They cannot be read.
    """
    if FILE not in bundle.manifest.files:
        return None
    path = bundle.path(FILE)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: expected statistics of training data (JSON); {error}.") from error
    return Statistics.from_json(text, where=str(path))


def has_enough(reading: Reading) -> bool:
    """Whether a reading says anything."""
    return reading.rows >= LEAST_ROWS


def _reading(feature: Feature, rows: int, counts: Array, mean: float) -> Reading:
    expected, seen = np.asarray(feature.counts), int(counts.sum())
    if not seen:
        return Reading(feature, rows, counts, mean, 0.0, 0.0, None, None)
    total = int(expected.sum())
    return Reading(
        feature,
        rows,
        counts,
        mean,
        psi(expected, counts),
        psi_limit(len(counts), total, seen),
        ks(expected, counts) if feature.is_number else None,
        ks_noise(total, seen) if feature.is_number else None,
    )


def _known_labels(statistics: Statistics, names: Sequence[str]) -> list[int]:
    feature = next((one for one in statistics.features if one.name == LABEL), None)
    known = () if feature is None else feature.categories[:-1]
    return [place for place, name in enumerate(names) if name in known]
