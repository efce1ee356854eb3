"""One model version, ready to answer: raw bytes or strings -> rows -> probabilities -> answers."""

import math
import threading
import time
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from serving.drift import DriftWatch
from serving.errors import InvalidRequestError, RequestError, TooLargeError, UndecodableTextError
from serving.sessions import OpenModel, Sessions
from serving.source import ServedBundle
from tfpipe.core.bundle import Execution, Variant
from tfpipe.core.errors import (
    BundleError,
    DecodeError,
    InferenceError,
    InputTooLargeError,
    SignatureError,
    TfpipeError,
)
from tfpipe.core.parity import assert_parity
from tfpipe.core.signature import Array
from tfpipe.decode import MAX_IMAGE_PIXELS
from tfpipe.inference.golden import bound_of, golden_rows
from tfpipe.inference.images import ImageInference, is_sample
from tfpipe.inference.interface import Inference, Prepared, Takes, answer_of, in_runs
from tfpipe.inference.opening import open_inference, open_model
from tfpipe.ort import Model

_OUTPUT, _FEATURES = "probabilities", "features"

Input: TypeAlias = bytes | str | Array | RequestError
"""A file as a client sends it, a text, decoded pixels (height, width, 3) uint8, a row of the model's input, or what is
wrong with an input already."""


@dataclass(slots=True)
class Row:
    """What the model gave for one row.

    Attributes:
        probabilities: (classes,) or (tokens, tags), float32.
        features: (units,) float32; None where they were not asked for.
        prepare_s: Seconds that its batch took to prepare; 0 where its rows were prepared before.
    """

    probabilities: Array
    features: Array | None = None
    prepare_s: float = 0.0

    def check(self) -> None:
        """Refuse what is no answer, and what JSON could not even say.

        Raises:
            InferenceError: A number is not finite.
        """
        for name, array in ((_OUTPUT, self.probabilities), (_FEATURES, self.features)):
            if array is not None and not np.isfinite(array).all():
                raise InferenceError(f"model: expected finite {name}, received NaN or infinity for this input.")


@dataclass(slots=True)
class Answered:
    """What came of one input.

    Attributes:
        rows: Of its rows: several stand for a text that is longer than a row.
    """

    prepared: Prepared
    rows: tuple[Row, ...]

    @property
    def nbytes(self) -> int:
        """Of its arrays, as of `alone`."""
        return sum(row.probabilities.nbytes + (0 if row.features is None else row.features.nbytes) for row in self.rows)

    def alone(self) -> "Answered":
        """The same answer without what it was made from: neither the input's rows nor the batch that it was in."""
        rows = tuple(
            Row(row.probabilities.copy(), None if row.features is None else row.features.copy()) for row in self.rows
        )
        return Answered(replace(self.prepared, rows=()), rows)

    def answer(self) -> dict[str, Any]:
        """The answer for people: "label", "score" and "probabilities", or "labels", or "entities"; and "features".

        Raises:
            InferenceError: A number is not finite.
        """
        answer = answer_of(self.prepared, [row.probabilities for row in self.rows])
        vector = self.rows[0].features
        return answer if vector is None else {**answer, _FEATURES: vector.tolist()}


class Engine:
    """One model version. Threads may share it.

    Attributes:
        name: Model name, as requests and answers give it.
        version: Registered version; None for a model that is not registered.
        aliases: Aliases of the version when it was loaded.
        variant: Name of the variant that runs, e.g. "int8".
        precision: Its precision, e.g. "int8".
        provider: What runs it, e.g. "cpu".
        arithmetic: What that computes float32 operators in.
        why: It runs in this way.
        passed_over: Ways that were tried before, and what was wrong with each.
        golden_max_abs_diff: Largest difference from training's golden answers; NaN until they were replayed.
        bundle_id: First 12 hex digits of the bundle's sha256.
        task: "image_classification", ...
        takes: What an input is.
        labels: Class names, or tags, in the order of the model's output.
        inputs: What the model takes.
        outputs: What it gives.
        lengths: Of rows whose length is open, those that batches are padded to.
        gives_features: Whether the bundle was converted with conversion.features.
        drift: Looks at what is asked and answered; None: nobody does.
    """

    def __init__(
        self,
        served: ServedBundle,
        variant: Variant,
        *,
        inference: Inference,
        model: Model,
        max_batch_size: int,
        max_image_pixels: int = MAX_IMAGE_PIXELS,
    ) -> None:
        self.name, self.version, self.aliases = served.name, served.version, served.aliases
        self.precision, self.provider, self.arithmetic = variant.precision, model.provider, model.arithmetic
        self.drift: DriftWatch | None = None
        self.why = ""
        self.passed_over: tuple[str, ...] = ()
        self.golden_max_abs_diff = math.nan
        self.bundle_id = served.bundle.short_id
        self.task = served.bundle.manifest.task
        self.takes: Takes = inference.takes
        self.labels = inference.labels
        self.inputs, self.outputs = served.bundle.manifest.inputs, served.bundle.manifest.outputs
        self.lengths = inference.lengths
        self.gives_features = any(spec.name == _FEATURES for spec in self.outputs)
        self._served, self._variant = served, variant
        self._spec = served.bundle.manifest.inputs[0]
        # Several variants may share a precision.
        variants = served.bundle.manifest.variants
        self.variant = next(name for name, one in variants.items() if one.file == variant.file)
        self._inference, self._model = inference, model
        self._max_batch_size, self._max_image_pixels = max_batch_size, max_image_pixels
        self._golden_row: Array | None = None
        self._local = threading.local()
        self._check_graph()

    @classmethod
    def open(
        cls,
        served: ServedBundle,
        *,
        precision: str,
        provider: str,
        arithmetic: str = "float32",
        threads: int | None,
        max_batch_size: int,
        max_image_pixels: int,
        max_text_chars: int,
        engines_dir: Path | None = None,
        open_model: OpenModel = open_model,
    ) -> "Engine":
        """Open the sessions of a bundle.

        Args:
            served: The bundle and its names.
            precision: "auto" (the bundle's default variant) or a variant's name.
            provider: See `tfpipe.ort.open_session`.
            arithmetic: See `tfpipe.ort.open_session`.
            threads: Threads inside one run of the model; None means one a core.
            max_batch_size: Most rows in one run of the model.
            max_image_pixels: Larger images are refused.
            max_text_chars: Longer texts are refused.
            engines_dir: Where TensorRT keeps its engines; None: nowhere.
            open_model: Opens the model; see `serving.sessions.opener`.

        Raises:
            BundleError: A precision, task, tokenizer or graph that cannot be served.
            ConfigError: The provider is not there.
        """
        bundle = served.bundle
        variant = bundle.variant(precision)
        # One thread: it prepares one image at a time, and as many requests as there are cores do so side by side.
        inference = open_inference(bundle, threads=1, max_image_pixels=max_image_pixels, max_text_chars=max_text_chars)
        model = open_model(
            bundle, variant, provider=provider, arithmetic=arithmetic, threads=threads, engines_dir=engines_dir
        )
        return cls(
            served, variant, inference=inference, model=model, max_batch_size=max_batch_size,
            max_image_pixels=max_image_pixels,
        )  # fmt: skip

    @property
    def sessions(self) -> Sessions | None:
        """Its sessions; None where it is a single one in this process that nobody watches."""
        return self._model if isinstance(self._model, Sessions) else None

    def prepare(self, given: Input, stage_s: MutableMapping[str, float], *, leave_bytes: int = 0) -> Prepared:
        """One input -> rows of the model's input.

        Args:
            given: The input.
            stage_s: Seconds of "decode" and "preprocess" are added to it.
            leave_bytes: Pixels of no more bytes stand for their row: `run` prepares them.

        Raises:
            DecodeError: Not an image that can be read.
            UndecodableTextError: Not a text that can be read.
            TooLargeError: More pixels or characters than allowed.
            InferenceError: The preprocessing graph failed.
            InvalidRequestError: An array that is neither pixels nor a row.
            RequestError: The one that was given.
        """
        if isinstance(given, RequestError):
            raise given
        if isinstance(given, np.ndarray):
            prepared_row = self.own_row(given)
            if not is_sample(given):
                self._check_row(given)
                return prepared_row
            self._check_pixels(given)
        started_s = time.perf_counter()
        try:
            sample = given if isinstance(given, np.ndarray) else self._inference.decode(given)
            decoded_s = time.perf_counter()
            is_left = isinstance(sample, np.ndarray) and sample.nbytes <= leave_bytes
            prepared = self.own_row(sample) if is_left else self._prepared(sample)
        except InputTooLargeError as error:
            raise TooLargeError(str(error), **error.details) from error
        except DecodeError as error:
            if self.takes == "text":
                raise UndecodableTextError(str(error)) from error
            raise
        stage_s["decode"] = stage_s.get("decode", 0.0) + decoded_s - started_s
        if is_left:
            return prepared
        stage_s["preprocess"] = stage_s.get("preprocess", 0.0) + time.perf_counter() - decoded_s
        if self.drift is not None:
            self.drift.received(sample, prepared.rows)
        return prepared

    def own_row(self, row: Array) -> Prepared:
        """A row that its client made, which is not looked at here.

        Raises:
            InvalidRequestError: The model takes texts.
        """
        return Prepared((row,), self._of_images().answer_row)

    def bucket_of(self, row: Array) -> int:
        """Rows of one bucket are run together with little or no padding."""
        return self._inference.padded_length(row)

    def run(self, rows: Sequence[Array], *, features: bool = False) -> list[Row]:
        """Run the model once.

        Args:
            rows: At least one; of images also pixels, (height, width, 3) uint8.
            features: Whether the vector before the head is wanted.

        Raises:
            InferenceError: Preprocessing or the model failed, or gave a number that is not finite.
            MemoryError: There was not enough of it.
        """
        started_s = time.perf_counter()
        batch = self._batch(rows)
        prepare_s = time.perf_counter() - started_s
        samples = [row for row in rows if is_sample(row)]
        outputs = self._run(batch, features)
        answered = self._cut(outputs, rows)
        if samples:
            for row in answered:
                row.prepare_s = prepare_s
        # The whole batch first, by its squares, as that is quick; of padding, which is cut off, nothing is asked.
        if not all(math.isfinite(np.vdot(array, array)) for array in outputs.values()):
            for row in answered:
                row.check()
        if self.drift is not None:
            for pixels in samples:
                self.drift.received(pixels, ())
            self.drift.answered(answered)
        return answered

    def is_well(self) -> bool:
        """Whether it answers a golden sample; what it fails to answer at the same time then fails by itself."""
        if self._golden_row is None:
            return False
        try:
            self.run([self._golden_row])
        except (TfpipeError, MemoryError):
            return False
        return True

    def replay_golden(self) -> float:
        """Answer the bundle's golden samples and compare with training's answers, alone and in batches.

        Returns:
            The largest difference.

        Raises:
            GateError: It exceeds what the variant may differ.
            BundleError: The bundle has no golden samples, or one that cannot be answered.
        """
        bundle = self._served.bundle
        golden = golden_rows(bundle, self._inference)
        rows = [one.row for one in golden]
        self._golden_row = rows[0]
        bound = bound_of(bundle, Execution(self.variant, self.provider, self.arithmetic))
        where = f"golden samples of {self.name!r}, {self.precision} on {self.provider}"
        largest = 0.0
        for size, how in ((self._max_batch_size, ", in batches"), (1, "")):
            for positions in in_runs(self._inference, rows, size):
                some = [rows[position] for position in positions]
                # What is not finite is no parity, and said to be none.
                answered = self._cut(self._outputs(some), some)
                for position, row in zip(positions, answered, strict=True):
                    expected = golden[position].probabilities
                    difference = assert_parity(row.probabilities, expected, bound, where=f"{where}{how}")
                    largest = max(largest, difference)
        self.golden_max_abs_diff = largest
        return largest

    def warm_up(self) -> None:
        """Run the largest batch at each length once, so that no request pays for its first allocation."""
        spec = self._spec
        for length in self._inference.lengths:
            shape = [length if isinstance(axis, str) else axis for axis in spec.shape[1:]]
            for _ in range(self.sessions.number if self.sessions else 1):
                # Nothing is asked of the answers to what nobody would send.
                self._outputs([np.zeros(shape, spec.dtype)] * self._max_batch_size)

    def close(self) -> None:
        """End its processes, where it has some."""
        if self.sessions is not None:
            self.sessions.close()

    def _outputs(self, rows: Sequence[Array]) -> dict[str, Array]:
        # By threads that are to keep no memory for it.
        return self._run(self._inference.batch(rows), features=False)

    def _run(self, batch: Array, features: bool) -> dict[str, Array]:
        wanted = [_OUTPUT, _FEATURES] if features else [_OUTPUT]
        return self._model.run({self._spec.name: batch}, wanted)

    def _batch(self, rows: Sequence[Array]) -> Array:
        if not isinstance(self._inference, ImageInference) or (len(rows) == 1 and not is_sample(rows[0])):
            return self._inference.batch(rows)
        # What is new each time comes page by page from the kernel, and is in no cache. Each thread has its own, as one
        # that hangs may still read it.
        memory: Array | None = getattr(self._local, "memory", None)
        if memory is None or len(memory) < len(rows):
            shape = [max(self._max_batch_size, len(rows)), *map(int, self._spec.shape[1:])]
            memory = self._local.memory = np.empty(shape, self._spec.dtype)
        for place, row in zip(memory, rows, strict=False):
            place[...] = self._prepared(row).rows[0] if is_sample(row) else row
        return memory[: len(rows)]

    def _prepared(self, sample: Any) -> Prepared:
        prepared = self._inference.prepare(sample)
        try:
            for row in prepared.rows:
                self._spec.check(row[None])
        except SignatureError as error:
            raise InferenceError(f"preprocessing: {error}") from error
        return prepared

    def _cut(self, outputs: Mapping[str, Array], rows: Sequence[Array]) -> list[Row]:
        probabilities = self._inference.cut(outputs[_OUTPUT], rows)
        if _FEATURES not in outputs:
            return [Row(one) for one in probabilities]
        return [Row(one, vector) for one, vector in zip(probabilities, outputs[_FEATURES], strict=True)]

    def _of_images(self) -> ImageInference:
        if not isinstance(self._inference, ImageInference):
            raise InvalidRequestError(f"input: model {self.name!r} takes texts, received numbers.")
        return self._inference

    def _check_row(self, given: Array) -> None:
        try:
            self._spec.check(given[None])
        except SignatureError as error:
            raise InvalidRequestError(str(error)) from error
        flat = given.reshape(-1)
        # Neither infinity nor what is not a number is lost among squares; where these are too large, each is looked at.
        if not math.isfinite(np.vdot(flat, flat)) and not np.isfinite(given).all():
            raise InvalidRequestError(f"{self._spec.name}: expected finite numbers, received NaN or infinity.")

    def _check_pixels(self, pixels: Array) -> None:
        if pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
            raise InvalidRequestError(f"pixels: expected (height, width, 3) uint8, received {pixels.shape}.")
        if pixels.size // 3 > self._max_image_pixels:
            raise TooLargeError(
                f"pixels: expected at most {self._max_image_pixels} pixels, received {pixels.size // 3}.",
                expected_pixels=self._max_image_pixels,
                received_pixels=pixels.size // 3,
            )

    def _check_graph(self) -> None:
        manifest, where = self._served.bundle.manifest, self._served.bundle.path(self._variant.file)
        if (
            self._model.input_names != [spec.name for spec in manifest.inputs]
            or _OUTPUT not in self._model.output_names
        ):
            raise BundleError(
                f"{where}: expected input {[spec.name for spec in manifest.inputs]} and output {_OUTPUT!r}, "
                f"received {self._model.input_names} and {self._model.output_names}."
            )
