"""One file that can be sent to a colleague, and opens without a network."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from tfpipe.figure_style import svg_uri
from tfpipe.monitor.figures import figure_of


def render_page(found: Mapping[str, Any]) -> str:
    """The page.

    Args:
        found: See `findings.find`.
    """
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(Path(__file__).with_name("page.html").read_text(encoding="utf-8"))
    return template.render(found=found, picture=lambda feature: svg_uri(figure_of(feature)))
