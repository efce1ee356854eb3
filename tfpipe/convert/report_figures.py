"""Pictures of a conversion: what each hop costs in exactness, and what each variant costs in size and time."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from tfpipe.convert.candidate import Measured
from tfpipe.core.certificate import Hop
from tfpipe.figure_style import INK, LINE, SOFT, style

_FINE, _BROKEN, _BOUND = "#4a6fa5", "#b3372f", "#c8642d"
# Below float32's resolution of probabilities a difference is none; the axis is logarithmic.
_LEAST = 1e-9


def waterfall_figure(hops: Sequence[Hop]) -> Figure:
    """Largest and mean difference from Keras by hop, in the order of a request's walk, beside what is allowed.

    Args:
        hops: As the certificate has them.
    """
    figure = Figure(figsize=(10.4, 0.9 + 0.36 * len(hops)), layout="constrained")
    axes = figure.subplots()
    style(axes, "Difference from Keras")
    axes.set_xscale("log")
    for place, hop in enumerate(hops):
        color = _BROKEN if hop.problem else _FINE
        # One that cannot be told reaches to the edge.
        largest = 1.0 if hop.max_abs_diff is None else max(hop.max_abs_diff, _LEAST)
        axes.barh(place, largest - _LEAST, left=_LEAST, height=0.6, color=color, alpha=0.85)
        axes.plot([max(hop.mean_abs_diff or 0.0, _LEAST)], [place], "o", color="white", markersize=3.5)
        if hop.bound is not None and hop.bound.atol > 0:
            axes.plot([hop.bound.atol] * 2, [place - 0.42, place + 0.42], color=_BOUND, linewidth=2)
        text = "cannot be told" if hop.max_abs_diff is None else f"{hop.max_abs_diff:.1e}" if hop.max_abs_diff else "0"
        axes.text(largest * 1.25, place, text, va="center", fontsize=8, color=INK)
    axes.set_yticks(range(len(hops)), [hop.title for hop in hops], parse_math=False)
    axes.set(xlim=(_LEAST, 30.0), ylim=(len(hops) - 0.4, -0.6))
    axes.set_xlabel("largest (bar), mean (dot), allowed (line)", fontsize=9, color=SOFT)
    return figure


def variants_figure(measured: Mapping[str, Measured]) -> Figure:
    """Size, score and latency of every variant side by side."""
    figure = Figure(figsize=(10.4, 1.2 + 0.42 * len(measured)), layout="constrained")
    size, score, latency = figure.subplots(1, 3, sharey=True)
    names, places = list(measured), range(len(measured))
    _bars(size, "File, MB", [one.figures.size_bytes / 1e6 for one in measured.values()])
    scores = [one.figures.score for one in measured.values()]
    known = [value for value in scores if value is not None]
    metric = next(iter(measured.values())).figures.metric.replace("_", " ")
    style(score, metric.capitalize())
    if known:
        score.plot([np.nan if value is None else value for value in scores], places, "o", color=_FINE, markersize=7)
        room = max(0.01, max(known) - min(known))
        score.set_xlim(min(known) - room, max(known) + room)
        score.xaxis.set_major_locator(MaxNLocator(4))
        score.xaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=1))
    else:
        score.text(0.5, 0.5, "not measured", ha="center", va="center", color=SOFT, transform=score.transAxes)
        score.set_xticks(())
    of_one = [one.execution.latency_ms["1"] for one in measured.values()]
    _bars(latency, "Latency of one row, ms: median, to p95", [each["p50"] for each in of_one])
    for place, each in zip(places, of_one, strict=True):
        latency.plot([each["p50"], each["p95"]], [place, place], color=INK, linewidth=1.4)
    # One long run among many is no reason to press the rest flat.
    latency.set_xlim(0, 1.5 * max(each["p50"] for each in of_one))
    size.set_yticks(places, names)
    size.set_ylim(len(names) - 0.4, -0.6)
    return figure


def _bars(axes: Axes, title: str, values: Sequence[float]) -> None:
    style(axes, title)
    axes.barh(range(len(values)), values, height=0.6, color=_FINE, alpha=0.85)
    axes.axvline(values[0], color=LINE, linewidth=1.2)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(5))
