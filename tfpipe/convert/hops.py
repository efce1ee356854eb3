"""Every hop between a raw file and an answer, compared with Keras on the same files."""

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from PIL import Image

from tfpipe.convert.trained import RawSample
from tfpipe.core.errors import GateError
from tfpipe.core.parity import BOUNDS, ROWS, Bound, assert_parity, max_abs_diff
from tfpipe.core.signature import Array
from tfpipe.decode import decode_image, decode_with_header
from tfpipe.export import KerasReference, load_saved_model
from tfpipe.models.assembly import ImageParts
from tfpipe.ort import OnnxModel

# Beside the training samples, which are often all of one size: (height, width) of generated pictures.
_SIZES = ((1, 1), (3, 7), (17, 31), (64, 48), (224, 224), (241, 320), (481, 641))


@dataclass(frozen=True)
class Hop:
    """One hop, measured.

    Attributes:
        name: From where to where.
        max_abs_diff: Largest difference from Keras; of rows on a scale of 0..1, else of probabilities.
        bound: What it may be, as text; "reported" where the gate judges accuracy instead.
        agreement: Share of files whose most probable class is Keras's; None where there is no class yet.
        num_files: Compared.
    """

    name: str
    max_abs_diff: float
    bound: str
    agreement: float | None
    num_files: int


class Hops:
    """What was compared so far.

    Attributes:
        hops: In order.
    """

    def __init__(self) -> None:
        self.hops: list[Hop] = []

    def note(
        self, name: str, candidate: Array, reference: Array, bound: Bound | None, *, classes: bool = True,
        num_files: int | None = None,
    ) -> None:  # fmt: skip
        """Record a hop.

        Args:
            name: From where to where.
            candidate: What the converted form gives.
            reference: What Keras gives, of the same shape.
            bound: How far they may be apart; None: reported only.
            classes: Whether the last axis is one of classes.
            num_files: Compared; None: the first axis.

        Raises:
            GateError: They are further apart, or not finite.
        """
        if bound is not None:
            assert_parity(candidate, reference, bound, where=name)
        difference = max_abs_diff(candidate, reference)
        if not np.isfinite(difference):
            raise GateError(f"{name}: expected finite answers, received NaN or infinity.")
        agreement = float(np.mean(candidate.argmax(axis=-1) == reference.argmax(axis=-1))) if classes else None
        text = "reported" if bound is None else f"{bound.atol:g} + {bound.rtol:g} × value"
        self.hops.append(Hop(name, difference, text, agreement, len(candidate) if num_files is None else num_files))


class ImageComparison(Hops):
    """A `Comparison` of images.

    Args:
        parts: The trained model, under float32 policies.
        samples: Raw files; generated pictures of other sizes are added.
        preprocess: The preprocessing graph.
    """

    def __init__(self, parts: ImageParts, samples: Sequence[RawSample], preprocess: OnnxModel) -> None:
        super().__init__()
        keras = KerasReference(parts)
        self._preprocess = preprocess
        self.samples = (*samples, *generated_samples())
        self._rows = np.stack([keras.rows(sample.sample) for sample in self.samples])
        self._answers = np.stack([keras.probabilities(sample.sample) for sample in self.samples])
        self._scale = _row_scale(parts)

    @property
    def probabilities(self) -> list[Array]:
        """Keras's own answers, (classes,) float32 each."""
        return list(self._answers)

    def check_preprocessing(self) -> list[Array]:
        """Decoded pixels -> rows. Returns the converted graph's rows, (height, width, 3) float32 each."""
        rows = np.stack([self._preprocess.run({"image": sample.sample})["input"] for sample in self.samples])
        self.note("pixels -> preprocess.onnx", rows * self._scale, self._rows * self._scale, ROWS, classes=False)
        return list(rows)

    def check_model(self, precision: str, model: OnnxModel, rows: Sequence[Array]) -> list[Array]:
        """Keras's rows -> probabilities, and the whole chain from the file.

        Returns:
            The answers of the whole chain, (classes,) float32 each.
        """
        bound = BOUNDS.get(precision)
        self.note(f"rows -> model.{precision}.onnx", _answers(model, self._rows), self._answers, bound)
        whole = _answers(model, rows)
        self.note(f"file -> decode -> preprocess.onnx -> model.{precision}.onnx", whole, self._answers, bound)
        return list(whole)

    def check_saved_model(self, folder: Path) -> None:
        """All three signatures, loaded as TensorFlow Serving loads them."""
        loaded = load_saved_model(folder)
        signatures: Mapping[str, Any] = loaded.signatures
        plain = [
            position for position, sample in enumerate(self.samples) if decode_with_header(sample.content).is_plain
        ]
        calls: tuple[tuple[str, Callable[[int], Any], Sequence[int]], ...] = (
            ("serving_default", lambda i: {"image_bytes": tf.constant([self.samples[i].content])}, plain),
            ("pixels", lambda i: {"pixels": tf.constant(self.samples[i].sample[None])}, range(len(self.samples))),
            ("tensor", lambda i: {"input": tf.constant(self._rows[i][None])}, range(len(self.samples))),
        )
        for name, inputs, positions in calls:
            answers = [np.asarray(signatures[name](**inputs(i))["probabilities"][0]) for i in positions]
            self.note(f"SavedModel {name}", np.stack(answers), self._answers[list(positions)], BOUNDS["fp32"])


def generated_samples() -> tuple[RawSample, ...]:
    """Pictures of many sizes as PNG and JPEG files: noise on a gradient, the same on every machine."""
    random = np.random.default_rng(0)
    samples = []
    for number, (height, width) in enumerate(_SIZES):
        ramp = np.linspace(0, 155, height)[:, None, None] + np.linspace(0, 50, width)[None, :, None]
        pixels = (ramp + random.integers(0, 50, (height, width, 3))).astype(np.uint8)
        kind = ("PNG", "JPEG")[number % 2]
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, kind)
        content = buffer.getvalue()
        samples.append(RawSample(f"generated-{height}x{width}.{kind.lower()}", content, decode_image(content)))
    return tuple(samples)


def _answers(model: OnnxModel, rows: Iterable[Array]) -> Array:
    return np.concatenate([model.run({"input": row[None]})["probabilities"] for row in rows])


def _row_scale(parts: ImageParts) -> Array:
    """Multiplier per channel that brings differences of rows to a scale of 0..1."""
    layer = parts.preprocessing.normalization
    return np.sqrt(np.asarray(layer.variance, np.float32)).reshape(-1)
