"""Statistics of training data, as `statistics.json` of a bundle holds them for a service to compare its traffic with.

Each feature is a histogram: of numbers, whose bins are tenths of what training had, and two more for what lies outside
of it; or of categories, the rarer ones as one.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from tfpipe.core.errors import BundleError
from tfpipe.core.signature import Array

FILE = "statistics.json"
FORMAT_VERSION = 1
OTHER = "(other)"
Of = Literal["inputs", "predictions"]

# Ten, as credit scoring has it; see `tfpipe.core.drift.psi`.
_BINS = 10
# More would be noise in a window of a thousand rows.
_MOST_CATEGORIES = 30


@dataclass(frozen=True)
class Feature:
    """One feature of training samples, or of the answers to validation samples.

    Attributes:
        name: E.g. "brightness".
        of: What it is measured of.
        unit: E.g. "pixels"; "" where there is none.
        counts: (bins,) what training had.
        edges: (bins - 1,) upper ends of bins of numbers, which belong to them; the last bin has none. Empty for
            categories.
        categories: (bins,) names; empty for numbers. The last may be `OTHER`.
        mean: Of the numbers; 0 for categories.
        std: Likewise.
    """

    name: str
    of: Of
    unit: str
    counts: tuple[int, ...]
    edges: tuple[float, ...] = ()
    categories: tuple[str, ...] = ()
    mean: float = 0.0
    std: float = 0.0

    @property
    def is_number(self) -> bool:
        """Whether it has an order, and so a Kolmogorov-Smirnov statistic."""
        return bool(self.edges)

    def histogram(self, values: Array) -> Array:
        """(n,) numbers -> (bins,) counts."""
        return np.bincount(np.searchsorted(self.edges, values, side="left"), minlength=len(self.counts))

    @property
    def bins(self) -> list[str]:
        """What the bins are called, in order."""
        if not self.edges:
            return list(self.categories)
        ends = [_shown(edge) for edge in self.edges]
        inner = [f"{low} to {high}" if low != high else high for low, high in pairwise(ends)]
        return [f"below {ends[0]}", *inner, f"above {ends[-1]}"]


@dataclass(frozen=True)
class Statistics:
    """What `statistics.json` says.

    Attributes:
        inputs_from: Where the features of inputs come from, e.g. "200 training samples"; "" where there are none.
        predictions_from: Likewise, of answers.
        features: All of them.
        unknown_id: Of texts, the token that stands for what the vocabulary lacks.
        vocabulary: Of texts, the tokens that are categories of the feature "vocabulary".
    """

    inputs_from: str
    predictions_from: str
    features: tuple[Feature, ...]
    unknown_id: int | None = None
    vocabulary: tuple[int, ...] = ()
    format_version: int = field(default=FORMAT_VERSION)

    def of(self, of: Of) -> list[Feature]:
        """Its features of inputs, or of predictions."""
        return [feature for feature in self.features if feature.of == of]

    def to_json(self) -> str:
        """JSON form; `from_json` is its inverse."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, *, where: str) -> "Statistics":
        """Read statistics.

        Args:
            text: Content of a statistics.json.
            where: Path for the error message.

        Raises:
            BundleError: Something else, or of another format version.
        """
        try:
            values: dict[str, Any] = json.loads(text)
            if values["format_version"] != FORMAT_VERSION:
                raise BundleError(
                    f"{where}: expected format version {FORMAT_VERSION}, received {values['format_version']!r}. "
                    "Convert the model again."
                )
            features = tuple(_feature(entry) for entry in values.pop("features"))
            return cls(features=features, vocabulary=tuple(values.pop("vocabulary")), **values)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BundleError(f"{where}: expected statistics of training data (JSON); {error!r}.") from error


def of_numbers(name: str, of: Of, values: Array, unit: str = "") -> Feature:
    """The feature of some numbers.

    Args:
        name: See `Feature`.
        of: See `Feature`.
        values: (n,) finite; at least one.
        unit: See `Feature`.
    """
    numbers = np.sort(np.asarray(values, np.float64))
    tenths = [numbers[-(-len(numbers) * part // _BINS) - 1] for part in range(1, _BINS + 1)]
    # Just below the least, so that what is less than anything training had is in a bin of its own.
    edges = np.unique([np.nextafter(numbers[0], -np.inf), *tenths])
    counts = np.bincount(np.searchsorted(edges, numbers, side="left"), minlength=len(edges) + 1)
    return Feature(
        name, of, unit, tuple(counts.tolist()), edges=tuple(edges.tolist()), mean=float(numbers.mean()),
        std=float(numbers.std()),
    )  # fmt: skip


def of_categories(name: str, of: Of, names: Sequence[str], counts: Sequence[int]) -> tuple[Feature, tuple[int, ...]]:
    """The feature of some categories; the most frequent stand for themselves, the others together.

    Args:
        name: See `Feature`.
        of: See `Feature`.
        names: Of all categories.
        counts: Of all; one at least is above 0.

    Returns:
        The feature, and the positions of the categories that stand for themselves.
    """
    order = sorted(range(len(counts)), key=lambda index: (-counts[index], index))
    frequent = tuple(sorted(order[:_MOST_CATEGORIES]))
    kept = [counts[index] for index in frequent]
    feature = Feature(
        name, of, "", (*kept, sum(counts) - sum(kept)), categories=(*(names[index] for index in frequent), OTHER)
    )
    return feature, frequent


def _feature(entry: Mapping[str, Any]) -> Feature:
    lists = {name: tuple(entry[name]) for name in ("counts", "edges", "categories")}
    feature = Feature(**{**entry, **lists})
    expected = len(feature.edges) + 1 if feature.edges else len(feature.categories)
    if len(feature.counts) != expected or not sum(feature.counts) or feature.of not in ("inputs", "predictions"):
        raise ValueError(f"feature {feature.name!r}: expected {expected} counts, received {feature.counts}")
    return feature


def _shown(value: float) -> str:
    # Without the hair's breadth that an edge lies below the least number.
    return f"{round(value, 9) + 0.0:.4g}"
