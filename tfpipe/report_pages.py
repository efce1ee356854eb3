"""Pages of reports: each one file that can be sent to a colleague and opens without a network; all look alike."""

from pathlib import Path

import jinja2


def templates(folder: Path) -> jinja2.Environment:
    """The templates of a folder; `page_style.css` is there for each to include.

    What they are given is escaped, and a name that they are not given is an error.
    """
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, Path(__file__).parent]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
    )
