"""report.md of a bundle: what was measured, in one page."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tfpipe.convert.gate import Figures
from tfpipe.convert.hops import Hop
from tfpipe.convert.passes import PassResult
from tfpipe.core.bundle import Variant

_SHOWN_WEIGHTS = 8


@dataclass
class Findings:
    """What a conversion has found so far; the report of a failed one holds as much as there is.

    Attributes:
        title: Name and version of the model.
        precision: Asked for.
        hops: Comparison with Keras.
        figures: Sizes and accuracy by variant.
        variants: Finished variants by precision.
        num_validation: Samples that the accuracy was measured on.
        num_corrupt: Samples among the validation data that cannot be read.
        passes: Over the float32 graph, with what each changed.
        attempts: INT8 recipes tried, with what became of them.
        notes: Sentences on how the model was trained or converted.
        measured_on: Machine and libraries.
        max_metric_drop: The gate's.
        missed: Limits missed; empty where the gate was passed.
    """

    title: str
    precision: str
    max_metric_drop: float
    hops: Sequence[Hop] = ()
    figures: dict[str, Figures] = field(default_factory=dict)
    variants: dict[str, Variant] = field(default_factory=dict)
    num_validation: int = 0
    num_corrupt: int = 0
    passes: Sequence[PassResult] = ()
    attempts: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    measured_on: dict[str, Any] = field(default_factory=dict)
    missed: list[str] = field(default_factory=list)


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
        _hops(findings.hops),
        _weights(findings.variants),
        _bullets("Graph passes", [result.describe() for result in findings.passes]),
        _bullets("INT8 recipes tried", findings.attempts),
        _bullets("Notes", findings.notes),
        _bullets("Use", usage),
        _bullets("Measured on", [f"{name}: {_plain(value)}" for name, value in findings.measured_on.items()]),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _verdict(findings: Findings) -> str:
    if findings.missed:
        return f"**{findings.precision} failed; no bundle was made.**\n\n" + "\n".join(
            f"- {m}" for m in findings.missed
        )
    return f"**{findings.precision} passed**: it is what is served by default."


def _variants(findings: Findings) -> str:
    if not findings.figures:
        return ""
    fp32 = findings.figures["fp32"]
    metric = fp32.metric.replace("_", " ")
    lines = [
        f"## Size, {metric}, latency",
        "",
        f"| variant | file | of fp32 | weights of fp32 | {metric} | same answer as fp32 | ms, batch of 1 | of 8 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, figures in findings.figures.items():
        variant = findings.variants.get(name)
        agreement = variant.metrics.get("top1_agreement") if variant else None
        latency = variant.latency_ms if variant else {}
        cells = (
            f"{name} (asked for)" if name == findings.precision else name,
            f"{figures.size_bytes / 1e6:.3f} MB",
            f"{figures.size_bytes / fp32.size_bytes:.1%}",
            f"{figures.weight_bytes / fp32.weight_bytes:.1%}",
            _share(figures.score),
            _share(agreement),
            *(f"{latency[size]:.3f}" if size in latency else "–" for size in ("1", "8")),
        )
        lines.append("| " + " | ".join(cells) + " |")
    corrupt = f", {findings.num_corrupt} more cannot be read" if findings.num_corrupt else ""
    data = (
        f"{metric.capitalize()} on the {findings.num_validation} validation samples of training{corrupt}. "
        if findings.num_validation
        else "No accuracy was measured; the notes say why. "
    )
    lines += ["", f"{data}At most {findings.max_metric_drop:.2%} may be lost. Latency: median, CPU, one thread."]
    return "\n".join(lines)


def _hops(hops: Sequence[Hop]) -> str:
    if not hops:
        return ""
    lines = [
        "## Each hop against Keras, on the same raw files",
        "",
        "| hop | files | largest difference | bound | same class as Keras |",
        "|---|---|---|---|---|",
        *(
            f"| {hop.name} | {hop.num_files} | {hop.max_abs_diff:.2g} | {hop.bound} | {_share(hop.agreement)} |"
            for hop in hops
        ),
        "",
        "Rows of images are compared on a scale of 0..1, token ids must be equal, everything else is compared as "
        "probabilities. Every file is decoded by the decoder that training used. INT8 has no bound on a single answer: "
        "its score is judged.",
    ]
    return "\n".join(lines)


def _weights(variants: dict[str, Variant]) -> str:
    lines = []
    for name, variant in variants.items():
        kept = variant.weights["kept"]
        lines.append(f"- {name}: {len(variant.weights['converted'])} converted, {len(kept)} kept")
        by_reason: dict[str, list[str]] = {}
        for weight, reason in kept.items():
            by_reason.setdefault(reason, []).append(weight)
        for reason, weights in by_reason.items():
            more = f" and {len(weights) - _SHOWN_WEIGHTS} more" if len(weights) > _SHOWN_WEIGHTS else ""
            names = ", ".join(f"`{weight}`" for weight in weights[:_SHOWN_WEIGHTS])
            lines.append(f"  - {reason}: {names}{more}")
    return "## Weights kept in a higher precision\n\n" + "\n".join(lines) if lines else ""


def _bullets(title: str, lines: Sequence[str]) -> str:
    return f"## {title}\n\n" + "\n".join(f"- {line}" for line in lines) if lines else ""


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.2%}"


def _plain(value: Any) -> str:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
