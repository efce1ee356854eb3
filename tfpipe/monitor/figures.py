"""One picture a feature: training beside the window."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from tfpipe.figure_style import INK, style

_TRAINING, _WINDOW = "#b9c3d0", "#2f6fde"
_WIDTH = 0.4


def figure_of(feature: Mapping[str, Any]) -> Figure:
    """Shares by bin.

    Args:
        feature: Of `findings.find`.
    """
    expected, actual = (np.asarray(feature[side], float) for side in ("expected", "actual"))
    figure = Figure(figsize=(7.2, 2.6), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(expected))
    axes.bar(places - _WIDTH / 2, 100 * expected / expected.sum(), _WIDTH, color=_TRAINING, label="training")
    axes.bar(places + _WIDTH / 2, 100 * actual / max(actual.sum(), 1), _WIDTH, color=_WINDOW, label="window")
    # Names come from labels and texts: a dollar sign is no formula.
    names = [name.replace("$", r"\$") for name in feature["bins"]]
    axes.set_xticks(places, names, rotation=40, ha="right", rotation_mode="anchor")
    unit = f", {feature['unit']}" if feature["unit"] else ""
    style(axes, f"{feature['name']}{unit}: %")
    axes.tick_params(axis="x", labelsize=7.5)
    # Above the bars, whose height is not known.
    axes.legend(frameon=False, fontsize=8.5, labelcolor=INK, ncols=2, loc="lower right", bbox_to_anchor=(1, 1))
    return figure
