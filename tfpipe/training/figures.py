"""Pictures of a run, for its report and for MLflow; drawn without pyplot and its global state."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, PercentFormatter
from numpy.typing import NDArray

from tfpipe.figure_style import INK, LINE, SOFT, style

_TRAINING, _VALIDATION = "#4a6fa5", "#c8642d"
# Counts in the cells are legible up to so many classes, labels at the sides up to so many; more are shown in blocks.
_MAX_ANNOTATED, _MAX_LABELLED, _MAX_CELLS = 20, 30, 100
_MAX_LABEL_LENGTH = 18
_SHARE_COLORS = {"input": "#c8a02d", "compute": _TRAINING, "communication": _VALIDATION, "other": "#b4bcc8"}
# What says more than accuracy, where there is it.
_SCORES = ("f1", "micro_f1")
_TITLES = {"f1": "F1 of entities", "micro_f1": "F1 of labels"}
_RATES = {
    "learning_rate": "Learning rate",
    "gradient_norm": "Gradient norm",
    "samples_per_second": "Samples per second",
}


def loss_figure(history: Sequence[Mapping[str, float]]) -> Figure:
    """Loss and accuracy by epoch, training and validation side by side; of entities and several labels F1.

    Args:
        history: One entry an epoch; loss, val_loss, accuracy and val_accuracy are drawn where they are.
    """
    figure = Figure(figsize=(10.4, 3.5), layout="constrained")
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    score = next((name for name in _SCORES if any(f"val_{name}" in epoch for epoch in history)), "accuracy")
    for axes, name in ((loss_axes, "loss"), (accuracy_axes, score)):
        lines = {"training": _values(history, name), "validation": _values(history, f"val_{name}")}
        _draw(axes, _TITLES.get(name, name.capitalize()), lines)
    loss_axes.set_ylim(bottom=0)
    accuracy_axes.set_ylim(top=1.02)
    accuracy_axes.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    return figure


def rates_figure(history: Sequence[Mapping[str, float]]) -> Figure:
    """Learning rate, gradient norm and throughput by epoch."""
    figure = Figure(figsize=(10.4, 2.4), layout="constrained")
    for axes, (name, title) in zip(figure.subplots(1, len(_RATES)), _RATES.items(), strict=True):
        _draw(axes, title, {"": _values(history, name)})
        axes.set_ylim(bottom=0)
    return figure


def learning_rate_figure(
    rates: Sequence[float], losses: Sequence[float], smoothed: Sequence[float], suggestion: float | None
) -> Figure:
    """Loss by learning rate on a logarithmic axis, each step's and smoothed, with the rate that is suggested."""
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.subplots()
    style(axes, "Loss by learning rate")
    axes.xaxis.set_major_locator(LogLocator())
    axes.set_xlabel("learning rate", fontsize=9, color=SOFT)
    axes.set_xscale("log")
    finite = np.where(np.isfinite(losses), losses, np.nan)
    axes.plot(rates, finite, color=LINE, linewidth=1.2, label="each step")
    axes.plot(
        rates, np.where(np.isfinite(smoothed), smoothed, np.nan), color=_TRAINING, linewidth=1.8, label="smoothed"
    )
    low, high = float(np.nanmin(smoothed)), float(smoothed[0])
    # What diverges would press all else flat.
    axes.set_ylim(low - 0.2 * (high - low + 1e-6), high + 1.0 * (high - low + 1e-6))
    if suggestion is not None:
        axes.axvline(suggestion, color=_VALIDATION, linewidth=1.4, label=f"steepest: {suggestion:.2g}")
    axes.legend(frameon=False, fontsize=9, labelcolor=INK)
    return figure


def shares_figure(workers: Mapping[int, Mapping[str, float]]) -> Figure:
    """Where the time of each worker went, one stacked bar a rank.

    Args:
        workers: Shares by rank and name; those of a rank add up to 1.
    """
    figure = Figure(figsize=(10.4, min(0.9 + 0.34 * len(workers), 8.0)), layout="constrained")
    axes = figure.subplots()
    style(axes, "")
    ranks = list(workers)
    left = np.zeros(len(ranks))
    for name, color in _SHARE_COLORS.items():
        widths = np.array([workers[rank][name] for rank in ranks])
        axes.barh(range(len(ranks)), widths, left=left, height=0.66, color=color, label=name)
        left += widths
    every = -(-len(ranks) // _MAX_LABELLED)
    axes.set_yticks(range(0, len(ranks), every), [f"worker {rank}" for rank in ranks[::every]])
    axes.set(xlim=(0, 1), xlabel="", ylim=(len(ranks) - 0.5, -0.5))
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(PercentFormatter(xmax=1))
    figure.legend(loc="outside upper left", ncols=len(_SHARE_COLORS), frameon=False, fontsize=9, labelcolor=INK)
    return figure


def confusion_figure(confusion: NDArray[Any], labels: Sequence[str]) -> Figure:
    """The confusion matrix as shares of each true class; counts in the cells while they can be read.

    Args:
        confusion: (classes, classes) counts, true class by row.
        labels: Class names.
    """
    block = -(-len(labels) // _MAX_CELLS)
    counts = _in_blocks(np.asarray(confusion, np.float64), block)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    size = min(max(3.4, 1.6 + 0.42 * len(counts)), 8.4)
    figure = Figure(figsize=(size + 0.8, size), layout="constrained")
    axes = figure.subplots()
    # The square root lets one confused sample in a hundred be seen.
    image = axes.imshow(np.sqrt(shares), cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    _label_sides(axes, labels, block, len(counts))
    if len(counts) <= _MAX_ANNOTATED:
        _annotate(axes, counts, shares)
    axes.set_xlabel("predicted" if block == 1 else f"predicted, {block} classes a cell", color=SOFT)
    axes.set_ylabel("true", color=SOFT)
    bar = figure.colorbar(image, ax=axes, fraction=0.04, pad=0.02)
    bar.set_ticks(
        [np.sqrt(share) for share in (0, 0.01, 0.1, 0.25, 0.5, 1)], labels=["0", "1 %", "10 %", "25 %", "50 %", "100 %"]
    )
    bar.ax.tick_params(labelsize=8, colors=SOFT, length=0)
    bar.outline.set_visible(False)
    return figure


def _values(history: Sequence[Mapping[str, float]], name: str) -> NDArray[np.float64]:
    """(epochs,) values; NaN where there is none to draw."""
    values = np.array([entry.get(name, np.nan) for entry in history], np.float64)
    return np.where(np.isfinite(values), values, np.nan)


def _draw(axes: Axes, title: str, lines: Mapping[str, NDArray[np.float64]]) -> None:
    """One line a name; a line without a name needs no legend."""
    style(axes, title)
    _by_epoch(axes)
    drawn = {name: values for name, values in lines.items() if not np.isnan(values).all()}
    for name, values in drawn.items():
        color = _VALIDATION if name == "validation" else _TRAINING
        # A point a value while there are few: a single epoch has no line.
        marker = "o" if len(values) <= 30 else None
        axes.plot(
            np.arange(1, len(values) + 1), values, color=color, label=name, marker=marker, markersize=3.5, linewidth=1.8
        )
        axes.set_ylim(*_limits(np.concatenate(list(drawn.values()))))
    if not drawn:
        axes.set(xticks=(), yticks=(), xlabel="")
        axes.text(0.5, 0.5, "not recorded", ha="center", va="center", color=SOFT, transform=axes.transAxes)
    elif "" not in drawn:
        axes.legend(frameon=False, fontsize=9, labelcolor=INK)


def _by_epoch(axes: Axes) -> None:
    axes.set_xlabel("epoch", fontsize=9, color=SOFT)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def _limits(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    # At least a tenth of the height above the lines, and some height for a constant.
    room = 0.1 * max(high - low, abs(high), 1e-6)
    return low - room, high + room


def _in_blocks(counts: NDArray[np.float64], block: int) -> NDArray[np.float64]:
    """Sums over square blocks of `block` classes."""
    starts = np.arange(0, len(counts), block)
    return np.asarray(np.add.reduceat(np.add.reduceat(counts, starts, axis=0), starts, axis=1))


def _label_sides(axes: Axes, labels: Sequence[str], block: int, num_cells: int) -> None:
    every = -(-num_cells // _MAX_LABELLED)
    places = range(0, num_cells, every)
    names = [_drawable(labels[place * block], place * block) for place in places]
    # A `$` in a label is no formula.
    axes.set_xticks(places, names, rotation=90 if max(map(len, names)) > 3 else 0, fontsize=8.5, parse_math=False)
    axes.set_yticks(places, names, fontsize=8.5, parse_math=False)
    axes.tick_params(colors=SOFT, length=0)
    for side in axes.spines.values():
        side.set_color(LINE)


def _annotate(axes: Axes, counts: NDArray[np.float64], shares: NDArray[np.float64]) -> None:
    for row, column in np.argwhere(counts > 0):
        color = "white" if shares[row, column] > 0.3 else INK
        text = f"{counts[row, column]:.0f}"
        axes.text(column, row, text, ha="center", va="center", fontsize=8, color=color)


def _drawable(label: str, index: int) -> str:
    """The label, cut to size; its number where matplotlib's font lacks a character of it."""
    if not all(ord(character) in _glyphs() for character in label):
        return f"#{index}"
    return label if len(label) <= _MAX_LABEL_LENGTH else label[: _MAX_LABEL_LENGTH - 1] + "…"


@functools.cache
def _glyphs() -> frozenset[int]:
    return frozenset(font_manager.get_font(font_manager.findfont("DejaVu Sans")).get_charmap())
