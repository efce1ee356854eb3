"""How our pictures look, and how they get into a page; drawn without pyplot and its global state."""

import base64
import io

from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, SOFT, LINE = "#1c2430", "#5b6675", "#e2e6ec"


def style(axes: Axes, title: str) -> None:
    """A title at the left, a quiet grid, no frame."""
    axes.set_title(title, loc="left", fontsize=11, color=INK)
    axes.tick_params(labelsize=8.5, colors=SOFT, length=0)
    axes.grid(color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)


def svg_uri(figure: Figure) -> str:
    """The figure as a data: URI for an <img>; as an image of its own its styles and ids stay out of the page."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None})
    return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()
