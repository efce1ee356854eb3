"""report.html: one file that can be sent to a colleague, and opens without a network."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tfpipe.bench.figures import figures_of
from tfpipe.bench.session import Target
from tfpipe.figure_style import svg_uri
from tfpipe.report_pages import templates


def render_page(found: Mapping[str, Any], targets: Sequence[Target]) -> str:
    """The page.

    Args:
        found: See `findings.find`.
        targets: Measured; the pictures are made of their records.
    """
    environment = templates(Path(__file__).parent)
    environment.filters["estimate"] = _estimate
    pictures = {caption: svg_uri(figure) for caption, figure in figures_of(targets).items()}
    return environment.get_template("page.html").render(found=found, pictures=pictures)


def _estimate(value: Mapping[str, float | None] | float, digits: int = 3) -> str:
    if not isinstance(value, Mapping):
        return f"{value:,.{digits}f}"
    if value["value"] is None:
        return "–"
    text = f"{value['value']:,.{digits}f}"
    if value["low"] is None or value["high"] is None:
        return text
    return f"{text}  [{value['low']:,.{digits}f} to {value['high']:,.{digits}f}]"
