"""Every hop between a raw file and an answer, compared with Keras on the same files."""

import io
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from tfpipe.convert.trained import RawSample
from tfpipe.core.certificate import Hop, compare
from tfpipe.core.errors import GateError
from tfpipe.core.parity import BOUNDS, ROWS
from tfpipe.core.signature import Array
from tfpipe.decode import decode_image
from tfpipe.export import KerasReference
from tfpipe.models.assembly import ImageParts
from tfpipe.ort import OnnxModel
from tfpipe.verify.saved_model import Asked, saved_model_hops

# Beside the training samples, which are often all of one size: (height, width) of generated pictures.
_SIZES = ((1, 1), (3, 7), (17, 31), (64, 48), (224, 224), (241, 320), (481, 641))
# And pictures of full colours, as a model of grey images hardly tells channels apart that differ little: how many,
# blocks of one colour down and across, pixels of their side.
_COLOURFUL, _BLOCKS, _BLOCK_SIDE = 3, (8, 6), 8


# Of them, what travels in a bundle: (height, width, 3) of at most so many numbers.
_TRAVELS = 64 * 48 * 3


class Hops:
    """What was compared so far.

    Attributes:
        hops: In order.
    """

    def __init__(self) -> None:
        self.hops: list[Hop] = []

    def note(self, hop: Hop) -> None:
        """Record a hop.

        Raises:
            GateError: It is beyond its bound.
        """
        self.hops.append(hop)
        if hop.problem:
            raise GateError(hop.problem)


class ImageComparison(Hops):
    """A `Comparison` of images: rows are (height, width, 3), probabilities (classes,).

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
        self.generated = [
            at for at in range(len(samples), len(self.samples)) if self.samples[at].sample.size <= _TRAVELS
        ]
        self.rows = [keras.rows(sample.sample) for sample in self.samples]
        self.probabilities = [keras.probabilities(sample.sample) for sample in self.samples]
        self.row_scale = _row_scale(parts)

    def check_preprocessing(self) -> list[Array]:
        """Decoded pixels -> rows. Returns the converted graph's rows, (height, width, 3) float32 each."""
        rows = [self._preprocess.run({"image": sample.sample})["input"] for sample in self.samples]
        scaled, expected = ([row * self.row_scale for row in both] for both in (rows, self.rows))
        self.note(compare("preprocess", "pixels -> preprocess.onnx", scaled, expected, ROWS, compares="rows"))
        return rows

    def check_model(self, precision: str, model: OnnxModel, rows: Sequence[Array]) -> list[Array]:
        """Keras's rows -> probabilities, and the whole chain from the file.

        Returns:
            The answers of the whole chain, (classes,) float32 each.
        """
        bound, file = BOUNDS.get(precision), f"model.{precision}.onnx"
        alone = _answers(model, self.rows)
        self.note(compare(f"{precision}.rows", f"Keras's rows -> {file}", alone, self.probabilities, bound))
        whole = _answers(model, rows)
        title = f"file -> decode -> preprocess.onnx -> {file}"
        self.note(compare(precision, title, whole, self.probabilities, bound))
        return whole

    def check_saved_model(self, loaded: Any) -> None:
        """See `Comparison.check_saved_model`."""
        for hop in saved_model_hops(loaded, asked(self.samples, self.rows, self.probabilities)):
            self.note(hop)


def asked(samples: Sequence[RawSample], rows: Sequence[Array], probabilities: Sequence[Array]) -> list[Asked]:
    """Samples with what Keras makes of them."""
    together = zip(samples, rows, probabilities, strict=True)
    return [Asked(sample.content, sample.sample, row, answer) for sample, row, answer in together]


def generated_samples() -> tuple[RawSample, ...]:
    """PNG and JPEG files, the same on every machine: noise on a gradient in many sizes, and blocks of full colours."""
    random = np.random.default_rng(0)
    samples = []
    for number, (height, width) in enumerate(_SIZES):
        ramp = np.linspace(0, 155, height)[:, None, None] + np.linspace(0, 50, width)[None, :, None]
        pixels = (ramp + random.integers(0, 50, (height, width, 3))).astype(np.uint8)
        samples.append(_written(pixels, f"generated-{height}x{width}", ("PNG", "JPEG")[number % 2]))
    for number in range(_COLOURFUL):
        colours = random.integers(0, 2, (*_BLOCKS, 3), np.uint8) * np.uint8(255)
        pixels = colours.repeat(_BLOCK_SIDE, axis=0).repeat(_BLOCK_SIDE, axis=1)
        samples.append(_written(pixels, f"generated-colours-{number}", "PNG"))
    return tuple(samples)


def _written(pixels: Array, name: str, kind: str) -> RawSample:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    content = buffer.getvalue()
    return RawSample(f"{name}.{kind.lower()}", content, decode_image(content))


def _answers(model: OnnxModel, rows: Iterable[Array]) -> list[Array]:
    return [model.run({"input": row[None]})["probabilities"][0] for row in rows]


def _row_scale(parts: ImageParts) -> Array:
    """Multiplier per channel that brings differences of rows to a scale of 0..1."""
    layer = parts.preprocessing.normalization
    return np.sqrt(np.asarray(layer.variance, np.float32)).reshape(-1)
