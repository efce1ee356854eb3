"""report.md of a bundle: what was measured, in one page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tfpipe.conversion_settings import ConversionConfig
from tfpipe.convert.candidate import Measured
from tfpipe.convert.gate import missed_limits
from tfpipe.convert.passes import PassResult
from tfpipe.convert.trial import Trial
from tfpipe.core.bundle import Execution
from tfpipe.core.certificate import Certificate, Hop

_SHOWN_WEIGHTS = 8


@dataclass
class Findings:
    """What a conversion has found so far; the report of a failed one holds as much as there is.

    Attributes:
        title: Name and version of the model.
        precision: Asked for.
        config: The gate's limits.
        hops: Comparison with Keras.
        measured: By variant, fp32 first.
        others: Variants run by another provider than ONNX Runtime's own for the CPU.
        executions: Ways to run the variants, best first.
        num_validation: Samples that the score was measured on.
        num_corrupt: Samples among the validation data that cannot be read.
        passes: Over the float32 graph, with what each changed.
        trials: What was tried for INT8, or by a search, with the reason for which it was not chosen.
        search_ended: Why a search ended; "" where there was nothing left to try.
        sections: Further ones of the page, as Markdown.
        notes: Sentences on how the model was trained or converted.
        measured_on: Machine and libraries.
        missed: Limits missed; empty where the gate was passed.
        forced: Limits missed, and overruled.
        certificate: Every hop, once all were measured.
    """

    title: str
    precision: str
    config: ConversionConfig
    hops: Sequence[Hop] = ()
    measured: dict[str, Measured] = field(default_factory=dict)
    others: list[Measured] = field(default_factory=list)
    executions: tuple[Execution, ...] = ()
    num_validation: int = 0
    num_corrupt: int = 0
    passes: Sequence[PassResult] = ()
    trials: Sequence[tuple[Trial, str]] = ()
    search_ended: str = ""
    sections: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    measured_on: dict[str, Any] = field(default_factory=dict)
    missed: list[str] = field(default_factory=list)
    forced: list[str] = field(default_factory=list)
    certificate: Certificate | None = None

    def add(self, measured: Measured) -> None:
        """Note a variant, and whether a row's answer depends on its neighbours."""
        name = measured.execution.variant
        self.measured[name] = measured
        if not measured.variant.batch_invariant:
            self.notes.append(
                f"{name}: a row's answer depends on the rows beside it, here by up to {measured.neighbours:.2g}."
            )

    def judge(self) -> list[str]:
        """Have every variant face the gate; what was asked for comes first of those that passed.

        Returns:
            The limits that the variant asked for misses.
        """
        fp32 = self.measured["fp32"].figures
        judged = {name: missed_limits(one.figures, fp32, self.config) for name, one in self.measured.items()}
        executions = [
            replace(one.execution, missed=tuple(missed_limits(one.figures, fp32, self.config))) for one in self.others
        ]
        executions += [replace(one.execution, missed=tuple(judged[name])) for name, one in self.measured.items()]
        self.executions = tuple(sorted(executions, key=lambda one: (one.variant != self.precision, not one.passed)))
        return judged[self.precision]


def render(findings: Findings, *, usage: Sequence[str]) -> str:
    """The page.

    Args:
        findings: What was found.
        usage: Commands and sentences for the section on use; empty for a failed conversion.
    """
    sections = [
        f"# Conversion of {findings.title}",
        _verdict(findings),
        _variants(findings),
        *findings.sections,
        _hops(findings),
        _weights(findings.measured),
        _bullets("Graph passes", [result.describe() for result in findings.passes]),
        _trials(findings),
        _bullets("Notes", findings.notes),
        _bullets("Use", usage),
        _bullets("Measured on", [f"{name}: {_plain(value)}" for name, value in findings.measured_on.items()]),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _verdict(findings: Findings) -> str:
    if findings.forced:
        listed = "\n".join(f"- {limit}" for limit in findings.forced)
        return f"**{findings.precision} was forced (`--force`) although it misses limits:**\n\n{listed}"
    if findings.missed:
        return f"**{findings.precision} failed; no bundle was made.**\n\n" + "\n".join(
            f"- {m}" for m in findings.missed
        )
    return f"**{findings.precision} passed**: it is what is served by default."


def _variants(findings: Findings) -> str:
    if not findings.measured:
        return ""
    fp32 = findings.measured["fp32"].figures
    metric = fp32.metric.replace("_", " ")
    lines = [
        f"## Size, {metric}, latency",
        "",
        f"| variant | file | of fp32 | weights of fp32 | {metric} | same answer as fp32 | ms, one row: p50 | p95 | p99 "
        "| eight: p50 | p95 | p99 | rows/s, eight | times fp32 | peak memory |",
        "|---" * 15 + "|",
    ]
    # A search has asked for none by its name.
    chosen = "asked for" if findings.missed else "served by default"
    for name, measured in findings.measured.items():
        figures, latency = measured.figures, measured.execution.latency_ms
        speed = (fp32.p50_ms or 0) / (figures.p50_ms or 1)
        cells = (
            f"{name} ({chosen})" if name == findings.precision else name,
            f"{figures.size_bytes / 1e6:.3f} MB",
            f"{figures.size_bytes / fp32.size_bytes:.1%}",
            f"{figures.weight_bytes / fp32.weight_bytes:.1%}",
            _share(figures.score),
            _share(measured.variant.metrics.get("top1_agreement")),
            *(_ms(latency.get(size, {}), at) for size in ("1", "8") for at in ("p50", "p95", "p99")),
            f"{measured.execution.rows_per_second.get('8', 0):.0f}",
            f"{speed:.2f}",
            _megabytes(measured.execution.peak_memory_bytes),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", _measured_how(findings, metric), *_slower(findings)])


def _measured_how(findings: Findings, metric: str) -> str:
    corrupt = f", {findings.num_corrupt} more cannot be read" if findings.num_corrupt else ""
    data = (
        f"{metric.capitalize()} on the {findings.num_validation} validation samples of training{corrupt}. "
        if findings.num_validation
        else "No accuracy was measured; the notes say why. "
    )
    return (
        f"{data}At most {findings.config.max_metric_drop:.2%} may be lost. Latency and memory: CPU, one thread, in a "
        "process that does nothing else; Python and ONNX Runtime, some 60 MB, are in it."
    )


def _slower(findings: Findings) -> list[str]:
    """What is no faster than float32 on this machine, said plainly."""
    fp32 = findings.measured["fp32"].figures.p50_ms or 0
    slower = {
        name: one.figures.p50_ms / fp32
        for name, one in findings.measured.items()
        if name != "fp32" and one.figures.p50_ms and fp32 and one.figures.p50_ms > fp32
    }
    return [
        f"On this processor {name} takes {times:.2f} times as long as fp32: it saves room, not time."
        for name, times in slower.items()
    ]


def _hops(findings: Findings) -> str:
    hops = findings.hops if findings.certificate is None else findings.certificate.hops
    if not hops:
        return ""
    lines = [
        "## Parity certificate: each hop against Keras, on the same raw files",
        "",
        f"| hop | files | largest difference | mean | bound | same class as Keras | {_metric(hops)} (95 % interval) |",
        "|---" * 7 + "|",
        *(f"| {' | '.join(_hop_cells(hop))} |" for hop in hops),
    ]
    if findings.certificate is not None:
        lines += ["", *(f"- {name} was not measured: {why}." for name, why in findings.certificate.left_out.items())]
    reasons = dict.fromkeys(f"- {_bound(hop)}: {hop.bound.reason}." for hop in hops if hop.bound and hop.bound.reason)
    lines += [
        "",
        "Bounds, and why:",
        "",
        *reasons,
        "- reported: INT8 has no bound on a single answer: its score is judged.",
    ]
    return "\n".join(lines)


def _metric(hops: Sequence[Hop]) -> str:
    return next((hop.score.name.replace("_", " ") for hop in hops if hop.score is not None), "score")


def _hop_cells(hop: Hop) -> tuple[str, ...]:
    score = "–"
    if hop.score is not None:
        score = f"{hop.score.value:.2%} ({hop.score.low:.2%} to {hop.score.high:.2%})"
    return (
        hop.title,
        str(hop.num_files),
        _number(hop.max_abs_diff),
        _number(hop.mean_abs_diff),
        _bound(hop),
        _share(hop.agreement),
        score,
    )


def _bound(hop: Hop) -> str:
    if hop.bound is None:
        return "reported"
    return "equal" if hop.bound.atol == hop.bound.rtol == 0 else f"{hop.bound.atol:.3g} + {hop.bound.rtol:.3g} × value"


def _megabytes(value: int | None) -> str:
    return "–" if value is None else f"{value / 1e6:.0f} MB"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2g}"


def _weights(measured: dict[str, Measured]) -> str:
    lines = []
    for name, one in measured.items():
        weights = one.variant.weights
        kept = weights["kept"]
        lines.append(f"- {name}: {len(weights['converted'])} converted, {len(kept)} kept")
        by_reason: dict[str, list[str]] = {}
        for weight, reason in kept.items():
            by_reason.setdefault(reason, []).append(weight)
        for reason, same in by_reason.items():
            more = f" and {len(same) - _SHOWN_WEIGHTS} more" if len(same) > _SHOWN_WEIGHTS else ""
            names = ", ".join(f"`{weight}`" for weight in same[:_SHOWN_WEIGHTS])
            lines.append(f"  - {reason}: {names}{more}")
    return "## Weights kept in a higher precision\n\n" + "\n".join(lines) if lines else ""


def _trials(findings: Findings) -> str:
    if not findings.trials:
        return ""
    reference = findings.trials[0][0].figures
    metric = reference.metric.replace("_", " ") if reference else "score"
    lines = [
        "## What was tried",
        "",
        f"| variant, provider | {metric} | ms, one row: p50 | p95 | eight: p50 | file | why not |",
        "|---" * 7 + "|",
        *(f"| {' | '.join(_trial_cells(trial, reason))} |" for trial, reason in findings.trials),
    ]
    lines += ["", "Latency with one thread a core, as the service runs it; in the first table with one thread."]
    if findings.search_ended:
        lines += ["", f"The search ended {findings.search_ended}."]
    return "\n".join(lines)


def _trial_cells(trial: Trial, reason: str) -> tuple[str, ...]:
    times = (trial.latency_ms.get(size, {}).get(at) for size, at in (("1", "p50"), ("1", "p95"), ("8", "p50")))
    return (
        trial.contender.title,
        _share(trial.figures.score if trial.figures else None),
        *("–" if time is None else f"{time:.3f}" for time in times),
        f"{trial.figures.size_bytes / 1e6:.3f} MB" if trial.figures else "–",
        reason or "**chosen**",
    )


def _bullets(title: str, lines: Sequence[str]) -> str:
    return f"## {title}\n\n" + "\n".join(f"- {line}" for line in lines) if lines else ""


def _ms(figures: Mapping[str, float], at: str) -> str:
    # A model of named tensors may take one request at a time.
    return f"{figures[at]:.3f}" if at in figures else "–"


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.2%}"


def _plain(value: Any) -> str:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
