"""What the terminal shows."""

from collections.abc import Mapping
from typing import Any


def render_summary(found: Mapping[str, Any]) -> str:
    """The findings of a session as text.

    Args:
        found: See `findings.find`.
    """
    lines: list[str] = []
    for target in found["targets"]:
        lines += [*_target(target), ""]
    for title, ratios in (found["comparison"] or {}).items():
        lines.append(f"{title} over {found['targets'][0]['target']}")
        lines += [f"  {name:<12}{_estimate(ratio, '{:.3f}')}" for name, ratio in ratios.items()]
        lines.append("")
    lines += [f"warning: {warning}" for warning in found["warnings"]]
    if found["loop"] == "closed":
        lines.append(
            "A closed loop: a connection that waits sends nothing, so that a pause of the service delays few requests. "
            "What users would wait at a given rate: --rate."
        )
    if found["interrupted"]:
        lines.append("Ended early; what was measured until then.")
    return "\n".join(lines).rstrip() + "\n"


def _target(target: Mapping[str, Any]) -> list[str]:
    version = f", version {target['version']}" if target["version"] else ""
    lines = [f"{target['target']}  (model {target['model']}{version})"]
    if target["search"]:
        lines += _search(target)
    if not target["sent"]:
        return [*lines, "  nothing was measured"]
    outcomes = ", ".join(f"{count:,} {outcome}" for outcome, count in target["outcomes"].items())
    lines.append(f"  {'requests':<12}{target['sent']:,}: {outcomes}")
    for outcome, said in target["refusals"].items():
        lines.append(f"  first {outcome}: {said}" if said else f"  first {outcome}: the server said nothing")
    lines.append(f"  {'throughput':<12}{_estimate(target['throughput_rps'], '{:,.1f}')} requests/s")
    for name, value in target["latency_ms"].items():
        text = _estimate(value, "{:,.3f}") if isinstance(value, Mapping) else f"{value:,.3f}"
        lines.append(f"  {name:<12}{text} ms")
    return lines


def _search(target: Mapping[str, Any]) -> list[str]:
    lines = []
    for probe in target["search"]:
        reached = ", ".join(
            f"{name} {'-' if value is None else f'{value:.3g} ms'}" for name, value in probe["latency_ms"].items()
        )
        verdict = "holds" if probe["holds"] else "does not hold"
        lines.append(f"  {probe['rate']:>10,.1f}/s  {reached}, errors {probe['errors']:.2%}: {verdict}")
    rate = target["found_rate"]
    lines.append(f"  highest rate that holds: {'none' if rate is None else f'{rate:,.1f} requests/s'}")
    return lines


def _estimate(estimate: Mapping[str, float | None], form: str) -> str:
    def shown(value: float | None) -> str:
        return "-" if value is None else form.format(value)

    interval = f"  [{shown(estimate['low'])}, {shown(estimate['high'])}]" if estimate["low"] is not None else ""
    return f"{shown(estimate['value'])}{interval}"
