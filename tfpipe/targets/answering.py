"""A bundle that answers inside another server: Triton's Python backend and MLflow's scoring server share it.

No TensorFlow, nothing of the server, and nothing that only an export needs. What stands before the model and after it
is the service's own.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from tfpipe.core.bundle import Bundle, read_golden
from tfpipe.core.errors import BundleError, DecodeError, GateError, SignatureError
from tfpipe.core.parity import assert_parity, golden_bound
from tfpipe.core.signature import Array
from tfpipe.inference.interface import Prepared, answer_of
from tfpipe.inference.opening import open_inference, open_model
from tfpipe.inference.tensors import TENSOR_TASK, TensorModel, open_tensors
from tfpipe.scoring import Scorer


class Answered(NamedTuple):
    """What came of one input.

    Attributes:
        answer: As the service gives it: `{"label", "score", "probabilities"}`, or `{"entities"}`.
        probabilities: (classes,) float32 in the order of the labels; of entities, (tokens, tags) of the first row.
    """

    answer: dict[str, Any]
    probabilities: Array


class BundleAnswers(Scorer):
    """Raw inputs -> answers by one variant of a bundle, which is proved on its golden samples when it is opened.

    Args:
        bundle: Checked.
        precision: A variant's name, or "auto" for the bundle's default.
        provider: See `tfpipe.ort.open_session`.

    Raises:
        BundleError: The bundle lacks the precision, or golden samples.
        ConfigError: The provider is not there.
        GateError: It answers its golden samples otherwise than it may.
    """

    def __init__(self, bundle: Bundle, *, precision: str = "auto", provider: str = "cpu") -> None:
        variant = bundle.variant(precision)
        self.bundle, self.variant = bundle, variant
        self.inference = open_inference(bundle)
        self.model = open_model(bundle, variant, provider=provider)
        self.identity = {
            "model_name": bundle.manifest.model_name,
            "model_version": bundle.manifest.model_version,
            "precision": variant.precision,
            "provider": self.model.provider,
            "bundle": bundle.short_id,
        }
        self._check_golden()

    def run(self, batch: Array) -> Array:
        """See `Scorer.run`."""
        return self.model.run({"input": batch})["probabilities"]

    def of(self, inputs: Sequence[bytes | str]) -> list[Answered]:
        """Answer files or texts as clients send them.

        Raises:
            DecodeError: One cannot be read; says which.
            InferenceError: The model failed on one.
        """
        return self._answer([self._placed(index, len(inputs), given) for index, given in enumerate(inputs)])

    def of_pixels(self, images: Array) -> list[Answered]:
        """Answer decoded images, (batch, height, width, 3) uint8.

        Raises:
            SignatureError: Other pixels, or a model of texts.
            InferenceError: The model failed on one.
        """
        if self.inference.takes != "image" or images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8:
            raise SignatureError(
                f"pixels: expected a model of images and uint8 of shape (batch, height, width, 3), received a model of "
                f"{self.inference.takes}s and {images.dtype} of shape {images.shape}."
            )
        return self._answer([self.inference.prepare(image) for image in images])

    def _answer(self, prepared: Sequence[Prepared]) -> list[Answered]:
        each = zip(prepared, self.probabilities(prepared), strict=True)
        return [Answered(answer_of(one, rows), rows[0]) for one, rows in each]

    def _placed(self, index: int, count: int, given: bytes | str) -> Prepared:
        try:
            return self.inference.prepare(self.inference.decode(given))
        except DecodeError as error:
            if count == 1:
                raise
            # A server answers a request as a whole: its client must know which of its inputs was refused.
            raise DecodeError(f"input {index}: {error}") from error

    def _check_golden(self) -> None:
        samples = read_golden(self.bundle)
        if not samples:
            raise BundleError(f"{self.bundle.folder}: expected golden samples to replay, received none.")
        bound = golden_bound(self.variant.precision, self.variant.golden_max_abs_diff)
        answered = self.of([self.bundle.path(sample.file).read_bytes() for sample in samples])
        for sample, one in zip(samples, answered, strict=True):
            assert_parity(one.probabilities, sample.probabilities, bound, where=f"golden sample {sample.file}")


def is_of_tensors(bundle: Bundle) -> bool:
    """Whether it is of named tensors: nothing stands before its model or after it."""
    return bundle.manifest.task == TENSOR_TASK


def open_proved(bundle: Bundle, precision: str, *, provider: str = "cpu") -> BundleAnswers | TensorModel:
    """A variant that has just answered the golden samples.

    Raises:
        GateError: It answered otherwise than it may.
        BundleError: It lacks the precision, or golden samples.
        ConfigError: The provider is not there.
    """
    if not is_of_tensors(bundle):
        return BundleAnswers(bundle, precision=precision, provider=provider)
    model = open_tensors(bundle, precision=precision, provider=provider)
    problem = model.replay_golden().problem
    if problem:
        raise GateError(problem)
    return model
