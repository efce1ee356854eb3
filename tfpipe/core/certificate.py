"""The parity certificate: every hop between a raw file and an answer, compared with the trained model.

    file ─▶ decode ─▶ preprocessing ─▶ model.fp32.onnx ─▶ model.fp16.onnx ─▶ model.int8.onnx ─▶ HTTP answer
                                  └──▶ SavedModel

Every hop is compared with Keras's own answers to the same raw files, so that the first one that differs is the one that
broke. `certificate.json` of a bundle holds it; `python -m tfpipe.verify` measures it anew.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tfpipe.core.errors import BundleError
from tfpipe.core.parity import Bound
from tfpipe.core.signature import Array

FILE = "certificate.json"
FORMAT_VERSION = 1


@dataclass(frozen=True)
class Score:
    """The task's metric with its 95 % confidence interval.

    Attributes:
        name: E.g. "accuracy".
        value: On the validation data, 0..1.
        low: Lower end of the interval.
        high: Upper end of the interval.
        num_samples: Samples that it was measured on.
    """

    name: str
    value: float
    low: float
    high: float
    num_samples: int


@dataclass(frozen=True)
class Hop:
    """One hop, measured.

    Attributes:
        name: "decode", "preprocess", "keras", "saved_model.serving_default", "fp32", "fp16", "int8", "http", ...
        title: From where to where, for people.
        compares: "pixels", "rows" (on a scale of 0..1), "token ids", "probabilities" or "tensors".
        num_files: Raw files compared.
        max_abs_diff: Largest difference from Keras; None where there is none to tell, as shapes differ or a value is
            not finite.
        mean_abs_diff: Mean difference from Keras; None likewise.
        agreement: Share of files (of texts to tag: of tokens) whose most probable class is Keras's; None where there is
            no class yet.
        score: The task's metric by this hop; None where it was not measured.
        bound: What the differences may be; None: reported only, as the gate judges the metric instead.
        problem: What is wrong, in a sentence; "" where it is within its bound.
    """

    name: str
    title: str
    compares: str
    num_files: int
    max_abs_diff: float | None
    mean_abs_diff: float | None
    agreement: float | None = None
    score: Score | None = None
    bound: Bound | None = None
    problem: str = ""


@dataclass(frozen=True)
class Certificate:
    """What was measured, where and when.

    Attributes:
        hops: In the order of a request's walk.
        left_out: Hops that were not measured, with the reason of each.
        made_on: Machine and libraries.
        created: ISO 8601, UTC.
    """

    hops: tuple[Hop, ...]
    left_out: dict[str, str]
    made_on: dict[str, Any]
    created: str
    format_version: int = FORMAT_VERSION

    @property
    def broken(self) -> Hop | None:
        """The first hop that is beyond its bound: where to look."""
        return next((hop for hop in self.hops if hop.problem), None)

    def hop(self, name: str) -> Hop | None:
        """The hop of a name, None where it was not measured."""
        return next((hop for hop in self.hops if hop.name == name), None)

    def to_json(self) -> str:
        """JSON form; `from_json` is its inverse."""
        return json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, text: str, *, where: str) -> "Certificate":
        """Read a certificate.

        Args:
            text: Content of a certificate.json.
            where: Path for the error message.

        Raises:
            BundleError: Not a certificate that this version knows.
        """
        try:
            values: dict[str, Any] = json.loads(text)
            hops = tuple(_hop(entry) for entry in values.pop("hops"))
            certificate = cls(hops=hops, **values)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise BundleError(f"{where}: expected a parity certificate; {error}.") from error
        if certificate.format_version != FORMAT_VERSION:
            raise BundleError(
                f"{where}: expected format version {FORMAT_VERSION}, received {certificate.format_version!r}."
            )
        return certificate


def compare(
    name: str,
    title: str,
    candidate: Sequence[Array],
    reference: Sequence[Array],
    bound: Bound | None,
    *,
    compares: str = "probabilities",
    score: Score | None = None,
) -> Hop:
    """Measure a hop; one beyond its bound, of other shapes, or not finite has a `problem`, and nothing is raised.

    Args:
        name: See `Hop`.
        title: See `Hop`.
        candidate: What the hop gives, one array a file; of probabilities, the last axis is one of classes.
        reference: What Keras gives, of the same shapes.
        bound: See `Hop`.
        compares: See `Hop`.
        score: See `Hop`.
    """
    shapes = [(one.shape, other.shape) for one, other in zip(candidate, reference, strict=True)]
    differing = next(((one, other) for one, other in shapes if one != other), None)
    if differing is not None:
        problem = f"{title}: expected shape {differing[1]}, received {differing[0]}."
        return Hop(name, title, compares, len(shapes), None, None, None, score, bound, problem)
    flat, expected = _flat(candidate), _flat(reference)
    if not np.isfinite(flat).all():
        problem = f"{title}: expected finite {compares}, received NaN or infinity."
        return Hop(name, title, compares, len(shapes), None, None, None, score, bound, problem)
    differences = np.abs(flat - expected)
    largest, mean = (float(differences.max()), float(differences.mean())) if len(flat) else (0.0, 0.0)
    agreement = _agreement(candidate, reference) if compares == "probabilities" else None
    problem = ""
    # `not <=` rather than `>`: a NaN must fail.
    if bound is not None and not np.all(differences <= bound.atol + bound.rtol * np.abs(expected)):
        problem = (
            f"{title}: expected {compares} within {bound.atol:g} + {bound.rtol:g} x value of Keras's, received a "
            f"largest difference of {largest:.3g}."
        )
    return Hop(name, title, compares, len(shapes), largest, mean, agreement, score, bound, problem)


def _flat(arrays: Sequence[Array]) -> Array:
    return np.concatenate([np.asarray(array, np.float64).ravel() for array in arrays]) if arrays else np.zeros(0)


def _agreement(candidate: Sequence[Array], reference: Sequence[Array]) -> float | None:
    same = [
        np.ravel(one.argmax(axis=-1) == other.argmax(axis=-1))
        for one, other in zip(candidate, reference, strict=True)
        if one.size
    ]
    return float(np.mean(np.concatenate(same))) if same else None


def _hop(entry: Mapping[str, Any]) -> Hop:
    values = dict(entry)
    score, bound = values.pop("score"), values.pop("bound")
    return Hop(**values, score=score and Score(**score), bound=bound and Bound(**bound))
