"""Picture of a search: every trial by latency and score, the Pareto front, and what was chosen."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter, ScalarFormatter

from tfpipe.convert.trial import Trial, pareto_front
from tfpipe.figure_style import INK, LINE, SOFT, style

_PASSED, _DEPENDENT, _MISSED, _CHOSEN = "#4a6fa5", "#c8642d", "#b9c1cc", "#2e7d4f"
_LABELLED = 14


def search_figure(trials: Sequence[tuple[Trial, str]]) -> Figure:
    """Latency of one row against the task's metric; trials without figures are left out.

    Args:
        trials: With the reason for which each was not chosen; "" for the one that was.
    """
    figure = Figure(figsize=(10.4, 5.2), layout="constrained")
    axes = figure.subplots()
    measured = [(trial, reason) for trial, reason in trials if trial.figures is not None]
    metric = measured[0][0].figures.metric.replace("_", " ") if measured and measured[0][0].figures else "score"
    style(axes, "What was tried")
    front = pareto_front([trial for trial, _ in measured])
    axes.plot([t.p50_ms for t in front], [t.score for t in front], color=LINE, linewidth=2.5, zorder=1)
    for number, (trial, reason) in enumerate(measured):
        axes.scatter(trial.p50_ms, trial.score, color=_color(trial, reason), s=90 if not reason else 45, zorder=3)
        # Neighbours in the order of trials are often neighbours in the picture.
        offset = (6, 6 if number % 2 else -12)
        if number < _LABELLED or not reason:
            axes.annotate(
                trial.contender.title, (trial.p50_ms, trial.score), offset, textcoords="offset points",
                fontsize=7.5, color=INK, parse_math=False,
            )  # fmt: skip
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(ScalarFormatter())
    axes.xaxis.set_minor_formatter(ScalarFormatter())
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=1))
    axes.margins(0.18)
    axes.set_xlabel("median latency of one row, ms", fontsize=9, color=SOFT)
    axes.set_ylabel(metric, fontsize=9, color=SOFT)
    _legend(figure)
    return figure


def _color(trial: Trial, reason: str) -> str:
    if not reason:
        return _CHOSEN
    if not trial.passed:
        return _MISSED
    return _PASSED if trial.batch_invariant else _DEPENDENT


def _legend(figure: Figure) -> None:
    axes = figure.axes[0]
    named = {
        "chosen": _CHOSEN,
        "passed the gate": _PASSED,
        "passed, a row depends on its neighbours": _DEPENDENT,
        "missed the gate": _MISSED,
    }
    for label, color in named.items():
        axes.scatter([], [], color=color, s=45, label=label)
    axes.plot([], [], color=LINE, linewidth=2.5, label="Pareto front")
    figure.legend(fontsize=8, frameon=False, labelcolor=SOFT, loc="outside lower center", ncols=len(named) + 1)
