"""report.html of a bundle: report.md with its pictures, one file that can be sent to a colleague."""

from collections.abc import Mapping
from pathlib import Path

from markdown_it import MarkdownIt
from matplotlib.figure import Figure

from tfpipe.convert.report import Findings
from tfpipe.convert.report_figures import variants_figure, waterfall_figure
from tfpipe.convert.search_figure import search_figure
from tfpipe.figure_style import svg_uri
from tfpipe.report_pages import templates

# A few recipes need no picture.
_PICTURED_TRIALS = 3


def render_page(findings: Findings, text: str, more: Mapping[str, Figure] | None = None) -> str:
    """The page.

    Args:
        findings: What was found.
        text: report.md.
        more: Further pictures by their caption.
    """
    hops = findings.hops if findings.certificate is None else findings.certificate.hops
    figures: dict[str, Figure] = {}
    if findings.measured:
        figures["Size, score and speed of each variant"] = variants_figure(findings.measured)
    if len(findings.trials) > _PICTURED_TRIALS:
        figures["What was tried: how fast, and how accurate"] = search_figure(findings.trials)
    if hops:
        figures["Parity: what each hop between a raw file and an answer costs in exactness"] = waterfall_figure(hops)
    figures |= more or {}
    # Raw HTML is off: labels and file names are the user's.
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)
    pictures = {caption: svg_uri(figure) for caption, figure in figures.items()}
    title = f"Conversion of {findings.title}"
    return (
        templates(Path(__file__).parent)
        .get_template("report_page.html")
        .render(title=title, body=body, pictures=pictures)
    )
