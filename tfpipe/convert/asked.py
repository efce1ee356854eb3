"""What a conversion is asked for, and what it gives."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tfpipe.convert.variants import Search
from tfpipe.core.bundle import Bundle
from tfpipe.registry import ModelVersion


@dataclass(frozen=True)
class Asked:
    """What a conversion is to give.

    Attributes:
        precision: "fp32", "fp16" or "int8": what is served by default, and judged.
        force: Whether a missed limit is recorded and overruled.
        search: What to search for; None: no search.
        backend: What it is converted for: "onnx", "tftrt" or "tensorrt"; "onnx" after a fallback.
        fallback: What the backend asked for lacks; see `to_tensorrt.require`.
    """

    precision: str
    force: bool
    search: Search | None = None
    backend: str = "onnx"
    fallback: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class ConversionResult:
    """What a conversion gave.

    Attributes:
        bundle: The bundle, opened and checked; `bundle.manifest` holds every figure.
        version: The registered version it was attached to; None for a model from a path.
        is_champion: Whether that version is `champion` now; the first of its name with a bundle becomes it.
        tracking_uri: The store it is registered in.
    """

    bundle: Bundle
    version: ModelVersion | None
    is_champion: bool
    tracking_uri: str
