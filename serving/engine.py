"""One model version, ready to answer: raw bytes or strings -> rows -> probabilities -> answers."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from serving.errors import DeadlineError, RequestError, TooLargeError, UndecodableTextError
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
from tfpipe.inference.golden import bound_of, golden_rows
from tfpipe.inference.interface import Inference, Prepared, Takes, answer_of, in_runs
from tfpipe.inference.opening import open_inference, open_model
from tfpipe.ort import OnnxModel

_OUTPUT, _FEATURES = "probabilities", "features"

Input: TypeAlias = bytes | str | RequestError
"""A file as a client sends it, a text, or what is wrong with an input already."""


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
    """

    def __init__(
        self,
        served: ServedBundle,
        variant: Variant,
        *,
        inference: Inference,
        model: OnnxModel,
        max_batch_size: int,
    ) -> None:
        self.name, self.version, self.aliases = served.name, served.version, served.aliases
        self.precision, self.provider, self.arithmetic = variant.precision, model.provider, model.arithmetic
        self.why = ""
        self.passed_over: tuple[str, ...] = ()
        self.golden_max_abs_diff = math.nan
        self.bundle_id = served.bundle.short_id
        self.task = served.bundle.manifest.task
        self.takes: Takes = inference.takes
        self._served, self._variant = served, variant
        # Several variants may share a precision.
        variants = served.bundle.manifest.variants
        self.variant = next(name for name, one in variants.items() if one.file == variant.file)
        self._inference, self._model = inference, model
        self._max_batch_size = max_batch_size
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
        return cls(served, variant, inference=inference, model=model, max_batch_size=max_batch_size)

    @property
    def gives_features(self) -> bool:
        """Whether the bundle was converted with conversion.features."""
        return _FEATURES in (spec.name for spec in self._served.bundle.manifest.outputs)

    def predict(self, inputs: Sequence[Input], *, deadline_s: float = float("inf"), features: bool = False) -> Outcome:
        """Answer inputs, each on its own: one that fails leaves the others be.

        Args:
            inputs: What a request holds; an error stays the answer in its place.
            deadline_s: `time.monotonic()` after which nobody waits for the answer.
            features: Whether each answer is to hold the vector before the model's head as "features".

        Raises:
            DeadlineError: The deadline passed before the last row was answered.
        """
        outcome = Outcome(rows=[{} for _ in inputs])
        prepared: dict[int, Prepared] = {}
        for index, given in enumerate(inputs):
            _check_deadline(deadline_s)
            try:
                prepared[index] = self.prepare(given, outcome)
            except (TfpipeError, MemoryError) as error:
                outcome.rows[index] = error
        # Several of one input, where it is a text that is longer than a row.
        rows = [row for one in prepared.values() for row in one.rows]
        vectors: dict[int, Array] | None = {} if features else None
        answered = enumerate(self._run_all(rows, outcome, deadline_s, vectors))
        for index, one in prepared.items():
            those = list(islice(answered, len(one.rows)))
            outcome.rows[index] = _answer(one, [row for _, row in those])
            if vectors is not None:
                outcome.rows[index] = _with_features(outcome.rows[index], vectors.get(those[0][0]))
        return outcome

    def prepare(self, given: Input, outcome: Outcome) -> Prepared:
        """One input -> rows of the model's input.

        Raises:
            DecodeError: Not an image that can be read.
            UndecodableTextError: Not a text that can be read.
            TooLargeError: More pixels or characters than allowed.
            InferenceError: The preprocessing graph failed.
            RequestError: The one that was given.
        """
        if isinstance(given, RequestError):
            raise given
        try:
            with outcome.timed("decode"):
                sample = self._inference.decode(given)
            with outcome.timed("preprocess"):
                prepared = self._inference.prepare(sample)
        except InputTooLargeError as error:
            raise TooLargeError(str(error), **error.details) from error
        except DecodeError as error:
            if self.takes == "text":
                raise UndecodableTextError(str(error)) from error
            raise
        try:
            for row in prepared.rows:
                self._served.bundle.manifest.inputs[0].check(row[None])
        except SignatureError as error:
            raise InferenceError(f"preprocessing: {error}") from error
        return prepared

    def run(self, rows: Sequence[Array], outcome: Outcome, vectors: list[Array] | None = None) -> list[Array]:
        """Rows -> the probabilities of each, in one run of the model.

        Args:
            rows: At least one.
            outcome: What is measured goes there.
            vectors: Features of each row are added to it, (units,) float32; None: they are not computed.

        Raises:
            InferenceError: The model failed.
            MemoryError: There was not enough of it.
        """
        outcome.batches.append(len(rows))
        with outcome.timed("model"):
            batch = self._inference.batch(rows)
            wanted = [_OUTPUT] if vectors is None else [_OUTPUT, _FEATURES]
            given = self._model.run({self._model.input_names[0]: batch}, wanted)
        if vectors is not None:
            vectors += list(given[_FEATURES])
        return self._inference.cut(given[_OUTPUT], rows)

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
        bound = bound_of(bundle, Execution(self.variant, self.provider, self.arithmetic))
        where = f"golden samples of {self.name!r}, {self.precision} on {self.provider}"
        largest = 0.0
        for size, how in ((self._max_batch_size, ", in batches"), (1, "")):
            for positions in in_runs(self._inference, rows, size):
                answered = self.run([rows[position] for position in positions], Outcome())
                for position, row in zip(positions, answered, strict=True):
                    difference = assert_parity(row, golden[position].probabilities, bound, where=f"{where}{how}")
                    largest = max(largest, difference)
        self.golden_max_abs_diff = largest
        return largest

    def warm_up(self) -> None:
        """Run the largest batch at each length once, so that no request pays for its first allocation."""
        spec = self._served.bundle.manifest.inputs[0]
        for length in self._inference.lengths:
            shape = [length if isinstance(axis, str) else axis for axis in spec.shape[1:]]
            self.run([np.zeros(shape, spec.dtype)] * self._max_batch_size, Outcome())

    def _run_all(
        self, rows: Sequence[Array], outcome: Outcome, deadline_s: float, vectors: dict[int, Array] | None
    ) -> list[Array | Exception]:
        results: dict[int, Array | Exception] = {}
        for positions in in_runs(self._inference, rows, self._max_batch_size):
            _check_deadline(deadline_s)
            features: list[Array] | None = None if vectors is None else []
            try:
                answered = self.run([rows[position] for position in positions], outcome, features)
            except (InferenceError, MemoryError) as error:
                results |= dict.fromkeys(positions, error)
            else:
                results |= zip(positions, answered, strict=True)
                if vectors is not None and features is not None:
                    vectors |= zip(positions, features, strict=True)
        return [results[position] for position in range(len(rows))]

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


def _answer(prepared: Prepared, answered: Sequence[Array | Exception]) -> dict[str, Any] | Exception:
    rows: list[Array] = []
    for row in answered:
        if isinstance(row, Exception):
            return row
        rows.append(row)
    try:
        return answer_of(prepared, rows)
    except InferenceError as error:
        return error


def _with_features(answer: dict[str, Any] | Exception, vector: Array | None) -> dict[str, Any] | Exception:
    if isinstance(answer, Exception) or vector is None:
        return answer
    if not np.isfinite(vector).all():
        return InferenceError("model: expected finite features, received NaN or infinity for this input.")
    return {**answer, _FEATURES: vector.tolist()}


def _check_deadline(deadline_s: float) -> None:
    if time.monotonic() >= deadline_s:
        raise DeadlineError("deadline: expected an answer in time, but the time was over before the last row was run.")
