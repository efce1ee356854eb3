"""validation.html: one self-contained page that a person reads, with thumbnails of what is wrong."""

import base64
import contextlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from tfpipe import __version__
from tfpipe.core.errors import DecodeError
from tfpipe.data.findings import Finding, out_of_balance
from tfpipe.data.inspection import Inspection
from tfpipe.data.sources import Sample, to_pixels
from tfpipe.data.validation_report import ValidationReport
from tfpipe.decode import FORMATS

_TEMPLATE = "validation_page.html"
_GROUPS_SHOWN = 24  # of a finding; each thumbnail is about 3 kB in the page
_SAMPLES_SHOWN = 6  # of a group of equal pictures
_CLASSES_SHOWN = 40
_THUMBNAIL_PIXELS = 128
_BYTES_SHOWN = 48
# Largest picture that is decoded again for its thumbnail.
_MAX_THUMBNAIL_SOURCE = 64_000_000


@dataclass(frozen=True)
class Card:
    """One thumbnail with its caption.

    Attributes:
        sample: What it shows.
        image: Data URI; "" where nothing can be shown.
        first_bytes: Of a file that is no image, as text.
    """

    sample: Inspection
    image: str
    first_bytes: str


@dataclass(frozen=True)
class Bar:
    """One class in the balance chart.

    Attributes:
        name: Of the class.
        count: Training samples.
        share: Of the largest class, 0..1.
        is_off: Outside the tolerance.
    """

    name: str
    count: int
    share: float
    is_off: bool


def render(report: ValidationReport, *, read: Callable[[Inspection], Sample]) -> str:
    """The page.

    Args:
        report: What was found.
        read: Gives a sample again, for its thumbnail; may raise DecodeError.
    """
    return fill(_TEMPLATE, report, card_of=lambda sample: _card(sample, read))


def fill(template: str, report: ValidationReport, *, card_of: Callable[[Any], Any], **more: Any) -> str:
    """A page from its template.

    Args:
        template: A file in this package that extends `validation_base.html`.
        report: What was found.
        card_of: What the template shows of a sample.
        more: What else the template asks for.
    """
    environment = Environment(
        loader=PackageLoader("tfpipe.data", ""), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return environment.get_template(template).render(
        report=report,
        summary=report.to_dict(),
        sections=[(finding, _groups(finding, card_of)) for finding in report.findings],
        balance=_balance(report),
        version=__version__,
        **more,
    )


def _groups(finding: Finding, card_of: Callable[[Any], Any]) -> list[list[Any]]:
    return [[card_of(sample) for sample in group[:_SAMPLES_SHOWN]] for group in finding.groups[:_GROUPS_SHOWN]]


def _card(sample: Inspection, read: Callable[[Inspection], Sample]) -> Card:
    try:
        content = read(sample)
    except DecodeError:
        return Card(sample, "", "")
    picture = _picture(content)
    if picture is None:
        return Card(sample, "", _readable_text(content) if isinstance(content, bytes) else "")
    picture.thumbnail((_THUMBNAIL_PIXELS, _THUMBNAIL_PIXELS))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=80)
    return Card(sample, "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode(), "")


def _picture(content: Sample) -> Image.Image | None:
    try:
        return Image.fromarray(to_pixels(content, _MAX_THUMBNAIL_SOURCE))
    except DecodeError:
        return _readable_part(content) if isinstance(content, bytes) else None


def _readable_part(content: bytes) -> Image.Image | None:
    """What a truncated file still shows; None where that is nothing."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > _MAX_THUMBNAIL_SOURCE:
                return None
            with contextlib.suppress(OSError, SyntaxError):
                image.load()
            # Nothing left to load: what was decoded before the damage is kept, the rest is black.
            image.tile = []
            return image.convert("RGB")
    # A damaged file may break the reader anywhere, and its thumbnail is not worth failing for.
    except Exception:
        return None


def _readable_text(content: bytes) -> str:
    """The first bytes of a file that is no image, with a dot for each that is no printable character."""
    return "".join(chr(byte) if 32 <= byte < 127 else "·" for byte in content[:_BYTES_SHOWN])


def _balance(report: ValidationReport) -> dict[str, Any]:
    """What the chart of class sizes shows: the largest first; of very many classes, the largest and the smallest."""
    counts = report.data.class_counts("training")
    if not counts:
        return {"bars": [], "left_out": 0, "mean": 0.0, "mean_share": 0.0}
    largest = max(counts.values())
    mean = sum(counts.values()) / len(counts)
    off = set(out_of_balance(counts, report.limits.balance_tolerance))
    bars = [Bar(name, count, count / largest, name in off) for name, count in counts.most_common()]
    half = _CLASSES_SHOWN // 2
    shown: Sequence[Bar] = bars if len(bars) <= _CLASSES_SHOWN else [*bars[:half], *bars[-half:]]
    return {"bars": shown, "left_out": len(bars) - len(shown), "mean": mean, "mean_share": mean / largest}
