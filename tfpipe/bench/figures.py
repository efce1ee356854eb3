"""Pictures of the page."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import AutoLocator, FuncFormatter, LogLocator

from tfpipe.bench.session import Target
from tfpipe.figure_style import style as plain_style

_COLOURS = ("#2f6fde", "#d9822b", "#2e9e6b", "#9b59b6")
_SLICES = 120
_POINTS = 400
_NARROW = 8.0


def figures_of(targets: Sequence[Target]) -> dict[str, Figure]:
    """Pictures by their caption; none of targets without answers."""
    shown = [(target, colour) for target, colour in zip(targets, _COLOURS * len(targets), strict=False)]
    measured = [(target, colour) for target, colour in shown if any(record.answered for record in target.records)]
    found = {}
    if measured:
        found["Latency by percentile: what the slowest requests took"] = _percentiles(measured)
        found["Latency over time: median (line) and slowest (dots) of each moment"] = _over_time(measured)
    probed = [(target, colour) for target, colour in shown if target.probes]
    if probed:
        found["Rates tried: filled where the limit held"] = _probes(probed)
    return found


def _style(axes: Axes, title: str) -> None:
    """Milliseconds on a logarithmic axis, as plain numbers."""
    axes.set_yscale("log")
    _number(axes.yaxis)
    plain_style(axes, title)
    axes.minorticks_off()


def _number(axis: Axis) -> None:
    """Plain numbers on a logarithmic axis: powers of ten alone are one or none where the values are close."""
    lowest, highest = axis.get_view_interval()
    is_narrow = highest < _NARROW * lowest
    axis.set_major_locator(AutoLocator() if is_narrow else LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter("{x:g}")


def _percentiles(measured: Sequence[tuple[Target, str]]) -> Figure:
    figure = Figure(figsize=(9, 3.4), layout="constrained")
    axes = figure.subplots()
    for target, colour in measured:
        values = np.concatenate([record.latencies_s for record in target.records]) * 1e3
        # From the median's neighbourhood to the last request but one.
        above = np.geomspace(1.0, 1 / max(2, len(values)), _POINTS)
        axes.plot(1 / above, np.quantile(values, 1 - above), color=colour, label=target.title)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * (1 - 1 / x):.7g} %"))
    _style(axes, "ms by percentile")
    axes.legend(frameon=False, fontsize=8.5)
    return figure


def _over_time(measured: Sequence[tuple[Target, str]]) -> Figure:
    figure = Figure(figsize=(9, 3.0), layout="constrained")
    axes = figure.subplots()
    for target, colour in measured:
        start_s = 0.0
        for index, record in enumerate(target.records):
            place = np.clip((record.intended_s / record.duration_s * _SLICES).astype(int), 0, _SLICES - 1)
            rows = [record.latencies_s[place == slice_] * 1e3 for slice_ in range(_SLICES)]
            filled = [slice_ for slice_, row in enumerate(rows) if len(row)]
            seconds = [start_s + (slice_ + 0.5) / _SLICES * record.duration_s for slice_ in filled]
            axes.plot(
                seconds, [np.median(rows[slice_]) for slice_ in filled], color=colour, linewidth=1.2,
                label=None if index else target.title,
            )  # fmt: skip
            axes.plot(seconds, [rows[slice_].max() for slice_ in filled], ".", color=colour, markersize=2.5, alpha=0.6)
            start_s += record.duration_s
    _style(axes, "ms over seconds of sending")
    axes.legend(frameon=False, fontsize=8.5)
    return figure


def _probes(probed: Sequence[tuple[Target, str]]) -> Figure:
    figure = Figure(figsize=(9, 3.0), layout="constrained")
    axes = figure.subplots()
    for target, colour in probed:
        for rate, verdict in target.probes:
            for value_s in verdict.reached_s.values():
                if np.isfinite(value_s):
                    axes.plot(rate, value_s * 1e3, "o", color=colour, fillstyle="full" if verdict.holds else "none")
    axes.set_xscale("log")
    _number(axes.xaxis)
    _style(axes, "ms at requests/s")
    return figure
