"""One model version, ready to answer: raw bytes -> decoded image -> row -> probabilities -> answer."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from serving.errors import DeadlineError, InferenceError, TooLargeError
from serving.source import ServedBundle
from tfpipe.core.bundle import GoldenSample, Variant, read_golden
from tfpipe.core.errors import BundleError, DecodeError, SignatureError, TfpipeError
from tfpipe.core.parity import assert_parity, golden_bound
from tfpipe.core.postprocess import classification_answer
from tfpipe.core.signature import Array
from tfpipe.decode import decode_image, image_header
from tfpipe.ort import OnnxModel, open_session

_TASKS = ("image_classification",)
_PREPROCESS_FILE = "preprocess.onnx"
_OUTPUT = "probabilities"
# What ONNX Runtime and the CUDA allocator say where memory runs out; they have no error class for it.
_OUT_OF_MEMORY = ("Failed to allocate memory", "bad allocation", "std::bad_alloc", "out of memory")


@dataclass
class Outcome:
    """What came of the inputs of one request.

    Attributes:
        rows: For each input, in order, its answer or the error that it met.
        stage_s: Seconds spent in "decode", "preprocess" and "model".
        batches: Rows of each run of the model.
    """

    rows: list[dict[str, Any] | Exception] = field(default_factory=list)
    stage_s: dict[str, float] = field(default_factory=lambda: {"decode": 0.0, "preprocess": 0.0, "model": 0.0})
    batches: list[int] = field(default_factory=list)

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time inside the block to a stage."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.stage_s[stage] += time.perf_counter() - started


class Engine:
    """The sessions of one model version in this process. Threads may share it.

    Attributes:
        name: Model name, as requests and answers give it.
        version: Registered version; None for a model that is not registered.
        aliases: Aliases of the version when it was loaded.
        precision: Variant that runs, e.g. "int8".
        provider: What runs it, e.g. "cpu".
        bundle_id: First 12 hex digits of the bundle's sha256.
        task: "image_classification".
        labels: Class names in the order of the model's output.
    """

    def __init__(
        self,
        served: ServedBundle,
        variant: Variant,
        *,
        preprocess: OnnxModel,
        model: OnnxModel,
        max_batch_size: int,
        max_image_pixels: int,
    ) -> None:
        manifest = served.bundle.manifest
        self.name, self.version, self.aliases = served.name, served.version, served.aliases
        self.precision, self.provider = variant.precision, model.provider
        self.bundle_id = served.bundle.short_id
        self.task, self.labels = manifest.task, manifest.labels
        self._served, self._variant = served, variant
        self._preprocess, self._model = preprocess, model
        self._max_batch_size, self._max_image_pixels = max_batch_size, max_image_pixels
        self._check_graphs()

    @classmethod
    def open(
        cls,
        served: ServedBundle,
        *,
        precision: str,
        provider: str,
        threads: int | None,
        max_batch_size: int,
        max_image_pixels: int,
    ) -> "Engine":
        """Open the sessions of a bundle.

        Args:
            served: The bundle and its names.
            precision: "auto" (the bundle's default variant) or a variant's name.
            provider: See `tfpipe.ort.open_session`.
            threads: Threads inside one run of the model; None means one a core.
            max_batch_size: Most rows in one run of the model.
            max_image_pixels: Larger images are refused.

        Raises:
            BundleError: A precision, task or graph that cannot be served.
            ConfigError: The provider is not there.
        """
        bundle = served.bundle
        if bundle.manifest.task not in _TASKS:
            raise BundleError(f"{bundle.folder}: expected task {', '.join(_TASKS)}, received {bundle.manifest.task!r}.")
        variant = bundle.variant(precision)
        # One thread: it resizes one image at a time, and as many requests as there are cores do so side by side.
        # On the CPU: images of every size would make a GPU compile and copy anew for each.
        preprocess = open_session(bundle.path(_PREPROCESS_FILE), provider="cpu", threads=1)
        model = open_session(bundle.path(variant.file), provider=provider, threads=threads)
        return cls(
            served,
            variant,
            preprocess=preprocess,
            model=model,
            max_batch_size=max_batch_size,
            max_image_pixels=max_image_pixels,
        )

    def predict(self, contents: Sequence[bytes], *, deadline_s: float = float("inf")) -> Outcome:
        """Answer encoded images, each on its own: one that fails leaves the others be.

        Args:
            contents: Files as a client sends them.
            deadline_s: `time.monotonic()` after which nobody waits for the answer.

        Raises:
            DeadlineError: The deadline passed before the last row was answered.
        """
        outcome = Outcome()
        rows: dict[int, Array] = {}
        for index, content in enumerate(contents):
            _check_deadline(deadline_s)
            try:
                rows[index] = self.prepare(content, outcome)
            except (TfpipeError, MemoryError) as error:
                outcome.rows.append(error)
            else:
                outcome.rows.append({})
        indices = list(rows)
        for start in range(0, len(indices), self._max_batch_size):
            _check_deadline(deadline_s)
            self._answer(indices[start : start + self._max_batch_size], rows, outcome)
        return outcome

    def prepare(self, content: bytes, outcome: Outcome) -> Array:
        """One encoded image -> one row of the model's input, (1, height, width, 3) float32.

        Raises:
            DecodeError: Not an image that can be read.
            TooLargeError: More pixels than allowed.
            InferenceError: The preprocessing graph failed.
        """
        with outcome.timed("decode"):
            pixels = self._decode(content)
        with outcome.timed("preprocess"):
            row = _run(self._preprocess, pixels, self._preprocess.output_names[0])[None]
        try:
            self._served.bundle.manifest.inputs[0].check(row)
        except SignatureError as error:
            raise InferenceError(f"preprocessing: {error}") from error
        return row

    def run(self, rows: Sequence[Array], outcome: Outcome) -> Array:
        """Rows, each (1, height, width, 3) -> (rows, classes) probabilities, in one run of the model.

        Raises:
            InferenceError: The model failed.
            MemoryError: There was not enough of it.
        """
        outcome.batches.append(len(rows))
        with outcome.timed("model"):
            return _run(self._model, rows[0] if len(rows) == 1 else np.concatenate(rows), _OUTPUT)

    def replay_golden(self) -> float:
        """Answer the bundle's golden samples and compare with training's answers, alone and in batches.

        Returns:
            The largest difference.

        Raises:
            GateError: It exceeds what the variant may differ.
            BundleError: The bundle has no golden samples, or one that cannot be answered.
        """
        samples = read_golden(self._served.bundle)
        if not samples:
            raise BundleError(f"{self._served.bundle.folder}: expected golden samples to replay, received none.")
        bound = golden_bound(self.precision, self._variant.golden_max_abs_diff)
        reference = np.stack([sample.probabilities for sample in samples])
        rows = [self._golden_row(sample) for sample in samples]
        size = self._max_batch_size
        batched = [self.run(rows[start : start + size], Outcome()) for start in range(0, len(rows), size)]
        alone = [self.run([row], Outcome()) for row in rows]
        where = f"golden samples of {self.name!r}, {self.precision} on {self.provider}"
        return max(
            assert_parity(np.concatenate(batched), reference, bound, where=f"{where}, in batches"),
            assert_parity(np.concatenate(alone), reference, bound, where=where),
        )

    def warm_up(self) -> None:
        """Run the largest batch once, so that no request pays for its first allocation."""
        shape = [1 if isinstance(length, str) else length for length in self._served.bundle.manifest.inputs[0].shape]
        self.run([np.zeros(shape, np.float32)] * self._max_batch_size, Outcome())

    def _decode(self, content: bytes) -> Array:
        try:
            return decode_image(content, max_pixels=self._max_image_pixels)
        except DecodeError:
            # Both an image that is too large and one that is no image fail to decode; the header tells them apart.
            height, width = _size_or_zero(content)
            if height * width > self._max_image_pixels:
                raise TooLargeError(
                    f"image: expected at most {self._max_image_pixels} pixels, received {width} x {height}.",
                    expected_pixels=self._max_image_pixels,
                    received_pixels=height * width,
                ) from None
            raise

    def _answer(self, indices: Sequence[int], rows: dict[int, Array], outcome: Outcome) -> None:
        try:
            probabilities = self.run([rows[index] for index in indices], outcome)
        except (InferenceError, MemoryError) as error:
            for index in indices:
                outcome.rows[index] = error
            return
        for index, row in zip(indices, probabilities, strict=True):
            # Not a number is no answer; JSON could not even say it.
            outcome.rows[index] = (
                classification_answer(row, self.labels)
                if np.isfinite(row).all()
                else InferenceError("model: expected finite probabilities, received NaN or infinity for this input.")
            )

    def _golden_row(self, sample: GoldenSample) -> Array:
        path = self._served.bundle.path(sample.file)
        try:
            return self.prepare(path.read_bytes(), Outcome())
        except (OSError, DecodeError, TooLargeError, InferenceError) as error:
            raise BundleError(f"{path}: expected a golden sample that can be answered; {error}") from error

    def _check_graphs(self) -> None:
        manifest, where = self._served.bundle.manifest, self._served.bundle.path(self._variant.file)
        if (
            self._model.input_names != [spec.name for spec in manifest.inputs]
            or _OUTPUT not in self._model.output_names
        ):
            raise BundleError(
                f"{where}: expected input {[spec.name for spec in manifest.inputs]} and output {_OUTPUT!r}, "
                f"received {self._model.input_names} and {self._model.output_names}."
            )


def _run(session: OnnxModel, array: Array, output: str) -> Array:
    try:
        return session.run({session.input_names[0]: array}, [output])[output]
    # ONNX Runtime raises classes of its own, straight from Exception.
    except Exception as error:
        if any(words in str(error) for words in _OUT_OF_MEMORY):
            raise MemoryError(str(error)) from error
        raise InferenceError(f"model: expected an answer, but ONNX Runtime failed: {error}") from error


def _size_or_zero(content: bytes) -> tuple[int, int]:
    try:
        return image_header(content)[2]
    except DecodeError:
        return 0, 0


def _check_deadline(deadline_s: float) -> None:
    if time.monotonic() >= deadline_s:
        raise DeadlineError("deadline: expected an answer in time, but the time was over before the last row was run.")
