"""The manifest of a bundle with one variant, of which nothing was measured."""

from pathlib import Path
from typing import Any

from tfpipe.core.bundle import Manifest, Variant


def fp32_manifest(path: Path, **described: Any) -> Manifest:
    """What `described` leaves out is that of a model graph in a file."""
    variant = Variant("fp32", path.name, {}, path.stat().st_size, {}, {"1": 0.1}, True, 0.0, {})
    return Manifest(
        variants={"fp32": variant},
        default_variant="fp32",
        training={},
        measured_on={},
        created="2026-01-01T00:00:00+00:00",
        **described,
    )
