"""validation.html of texts: one self-contained page with what is wrong and how long the texts are."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tfpipe.data.text_findings import TextLimits
from tfpipe.data.text_inspection import TextInspection
from tfpipe.data.validation_page import fill
from tfpipe.data.validation_report import ValidationReport

_TEMPLATE = "text_validation_page.html"
_MAX_BINS = 24
_SHARE_BY_LENGTH = 0.99


@dataclass(frozen=True)
class Bin:
    """One bar of a histogram.

    Attributes:
        low: Least length counted.
        high: Largest length counted.
        count: Training texts.
        share: Of the fullest bin, 0..1.
        is_over: Above the limit.
    """

    low: int
    high: int
    count: int
    share: float
    is_over: bool


@dataclass(frozen=True)
class Histogram:
    """How lengths are distributed over the training texts.

    Attributes:
        title: What is counted.
        bars: Of equal width, but for the last, which takes the longest one in a hundred.
        median: Of the lengths.
        limit: What the model reads; None where there is none.
        limit_at: Where the limit lies, as a share of the bars; None where no length is above it.
    """

    title: str
    bars: tuple[Bin, ...]
    median: float
    limit: int | None
    limit_at: float | None


def render_texts(report: ValidationReport) -> str:
    """The page.

    Args:
        report: What was found; its limits are `TextLimits`.
    """
    readable = [sample for sample in report.data.samples["training"] if not sample.fault]
    limits = report.limits
    charts = tuple(_histograms(readable, limits)) if readable else ()
    return fill(_TEMPLATE, report, card_of=lambda sample: sample, histograms=charts)


def histogram(title: str, lengths: Sequence[int], limit: int | None = None) -> Histogram:
    """The distribution of lengths.

    Args:
        title: What is counted.
        lengths: (n,) at least one, none negative.
        limit: Bars above it are marked; a bar ends at it where it lies within the data.
    """
    values = np.asarray(lengths)
    least, largest = int(values.min()), int(values.max())
    # The last bar takes the longest texts: one of them would leave the others a single bar.
    end = int(np.quantile(values, _SHARE_BY_LENGTH, method="higher"))
    if limit is not None and limit < largest:
        end = max(end, limit + 1)
    width = math.ceil((end - least + 1) / _MAX_BINS)
    start = least
    if limit is not None and least <= limit < largest:
        # Laid out from the limit, so that no bar has texts on both sides of it.
        start = limit + 1 - width * math.ceil((limit + 1 - least) / width)
    edges = start + width * np.arange(math.ceil((end + 1 - start) / width) + 1)
    counts, _ = np.histogram(np.minimum(values, end), edges)
    highs = [*(edges[1:-1] - 1).tolist(), max(largest, int(edges[-1]) - 1)]
    bars = tuple(
        Bin(
            low=max(0, low),
            high=high,
            count=count,
            share=count / int(counts.max()),
            is_over=limit is not None and low > limit,
        )
        for low, high, count in zip(edges[:-1].tolist(), highs, counts.tolist(), strict=True)
    )
    within = sum(not bar.is_over for bar in bars)
    limit_at = None if within == len(bars) else within / len(bars)
    return Histogram(title, bars, float(np.median(values)), limit, limit_at)


def _histograms(samples: Sequence[TextInspection], limits: TextLimits) -> Iterator[Histogram]:
    yield histogram("Characters of a training text", [sample.num_chars for sample in samples])
    yield histogram("Words of a training text", [sample.num_words for sample in samples])
    tokens = [sample.tokens.num_tokens for sample in samples if sample.tokens is not None]
    if tokens:
        yield histogram("Tokens of a training text", tokens, limits.max_tokens)
