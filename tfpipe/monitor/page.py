"""One file that can be sent to a colleague, and opens without a network."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tfpipe.figure_style import svg_uri
from tfpipe.monitor.figures import figure_of
from tfpipe.report_pages import templates


def render_page(found: Mapping[str, Any]) -> str:
    """The page.

    Args:
        found: See `findings.find`.
    """
    page = templates(Path(__file__).parent).get_template("page.html")
    return page.render(found=found, picture=lambda feature: svg_uri(figure_of(feature)))
