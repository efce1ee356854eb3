"""One contender built, run and measured; see `tfpipe.convert.search`."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx

from tfpipe import latency
from tfpipe.convert import measure
from tfpipe.convert.conversion import Conversion, Examples
from tfpipe.convert.gate import Figures
from tfpipe.convert.measure import Timing
from tfpipe.convert.onnx_file import file_bytes, save_model
from tfpipe.convert.recipe import Recipe
from tfpipe.convert.trial import Contender, Trial
from tfpipe.convert.weights import weight_bytes
from tfpipe.core.parity import Bound, golden_bound, max_abs_diff
from tfpipe.core.signature import Array
from tfpipe.ort import open_session
from tfpipe.tasks.task import Task

# Rows in the batch whose answers are compared with those alone.
_NEIGHBOURS = 8
_REMEMBERED_BYTES = 1 << 28
_NAME = "contender"


@dataclass(frozen=True)
class Yardstick:
    """What all contenders are measured with.

    Attributes:
        conversion: Of the model.
        rows: Preprocessed samples, at least one.
        references: Keras's answers to them.
        examples: Validation data; None: no score is measured.
        task: What the answers are.
        max_corrupt_fraction: Share of unreadable validation samples that is borne.
        timing: How contenders are timed.
        scores: What is known already, of "fp32" and "fp16" on ONNX Runtime's own provider; None: nothing.
    """

    conversion: Conversion
    rows: Sequence[Array]
    references: Sequence[Array]
    examples: Examples | None
    task: Task
    max_corrupt_fraction: float
    timing: Timing = field(default_factory=Timing)
    scores: measure.Scores | None = None


@dataclass(frozen=True)
class Known:
    """What trials tell of a file that ONNX Runtime's own provider runs.

    Attributes:
        scores: Under the name of the variant; None where there are no validation data.
        tried: As it was timed; None where only others ran it.
        neighbours: By how much a row's answer differs beside others; None where it was not timed.
    """

    scores: measure.Scores | None = None
    tried: latency.Trial | None = None
    neighbours: float | None = None


@dataclass(frozen=True)
class BuiltFile:
    """A variant on disk.

    Attributes:
        path: Of the file.
        weight_bytes: Of the numbers stored in it.
    """

    path: Path
    weight_bytes: int

    @property
    def size_bytes(self) -> int:
        """Of the file."""
        return file_bytes(self.path)


class Examiner:
    """Builds contenders, each file once, and measures them.

    Args:
        build: Precision and recipe -> the graph.
        yardstick: What to measure with.
        folder: Where files are written.
    """

    def __init__(
        self, build: Callable[[str, Recipe | None], onnx.ModelProto], yardstick: Yardstick, folder: Path
    ) -> None:
        self._build, self._yardstick, self._folder = build, yardstick, folder
        self._files: dict[tuple[str, Recipe | None], BuiltFile] = {}
        self._reference: Array | None = None
        self._scores: dict[Contender, measure.Scores] = {}
        self._tried: dict[Contender, latency.Trial] = {}
        self._neighbours: dict[Contender, float] = {}
        if yardstick.scores is not None:
            for precision in yardstick.scores.tallies.keys() & {"fp32", "fp16"}:
                self._scores[Contender(precision)] = yardstick.scores.under(_NAME, precision)

    def file(self, contender: Contender) -> BuiltFile:
        """The contender's file; built where it is not there yet.

        Raises:
            ConversionError: It cannot be built.
            OSError: There is no room.
        """
        key = contender.file_key
        if key not in self._files:
            graph = self._build(*key)
            path = self._folder / f"{len(self._files)}.{contender.precision}.onnx"
            save_model(graph, path)
            self._files[key] = BuiltFile(path, weight_bytes(graph))
        return self._files[key]

    def examine(self, contender: Contender) -> Trial:
        """Build, load, compare, time and score.

        Raises:
            ConversionError: It cannot be built.
            BundleError: It cannot be loaded.
            ConfigError: Its provider does not run it.
            InferenceError: It cannot be run.
            DataError: Too much of the validation data cannot be read.
        """
        file = self.file(contender)
        tried = self._tried[contender] = self._try_out(contender, file)
        answers = [output[self._output] for output in tried.outputs]
        problem, difference, neighbours = self._compare(contender, answers)
        if problem:
            return Trial(contender, problem=problem)
        self._neighbours[contender] = neighbours
        scores = self._score(contender, file)
        figures = Figures(
            precision=contender.precision,
            size_bytes=file.size_bytes,
            weight_bytes=file.weight_bytes,
            score=None if scores is None else scores.headline(_NAME),
            metric=self._yardstick.task.headline,
            neighbours=neighbours,
            recalls={} if scores is None else scores.recalls(_NAME),
            p50_ms=tried.speed.latency_ms["1"]["p50"],
            p95_ms=tried.speed.latency_ms["1"]["p95"],
        )
        return Trial(
            contender,
            figures,
            metrics={} if scores is None else self._metrics(scores),
            latency_ms=tried.speed.latency_ms,
            rows_per_second=tried.speed.rows_per_second,
            peak_memory_bytes=tried.peak_memory_bytes,
            golden_max_abs_diff=difference,
            on_cpu=tried.on_cpu,
        )

    def known(self, contender: Contender, variant: str) -> Known:
        """What need not be measured of a file again; nothing where ONNX Runtime's own provider was not tried.

        Args:
            contender: Of the file, run in whatever way.
            variant: What the file is called in the bundle.
        """
        plain = Contender(*contender.file_key)
        scores = self._scores.get(plain)
        return Known(
            None if scores is None else scores.under(variant, _NAME),
            self._tried.get(plain),
            self._neighbours.get(plain),
        )

    def clocked(self, contender: Contender) -> latency.Speed:
        """Time a contender that was examined once more.

        Raises:
            InferenceError: It cannot be run any more.
        """
        return self._try_out(contender, self.file(contender)).speed

    @property
    def _output(self) -> str:
        return self._yardstick.conversion.output.name

    def _try_out(self, contender: Contender, file: BuiltFile) -> latency.Trial:
        """In a process of its own: one that crashes or hangs loses alone."""
        rows, conversion = self._yardstick.rows, self._yardstick.conversion
        alone = [{"input": conversion.batch([row])} for row in rows]
        return measure.time_apart(
            file.path,
            contender.way,
            measure.timed_batches(conversion, rows),
            self._yardstick.timing,
            answered=[*alone, {"input": conversion.batch(rows[:_NEIGHBOURS])}],
            disabled_optimizers=_disabled(contender),
        )

    def _compare(self, contender: Contender, answers: Sequence[Array]) -> tuple[str, float, float]:
        """What is wrong, or ""; largest differences from Keras, and of a row in a batch from the same row alone."""
        rows, cut = self._yardstick.rows, self._yardstick.conversion.cut
        alone = [cut(answer, [row])[0] for row, answer in zip(rows, answers, strict=False)]
        together = cut(answers[-1], rows[:_NEIGHBOURS])
        difference = _farthest(alone, self._yardstick.references)
        if not np.isfinite(difference):
            return "Its answers are not finite, or of another shape than Keras's.", difference, difference
        neighbours = _farthest(together, alone[: len(together)])
        bound = golden_bound(contender.precision, difference, arithmetic=contender.way.arithmetic)
        if not _within(alone, self._yardstick.references, bound):
            problem = (
                f"Its answers differ from Keras's by up to {difference:.3g}: expected at most {bound.atol:g} + "
                f"{bound.rtol:g} x value ({bound.reason})."
            )
            return problem, difference, neighbours
        return "", difference, neighbours

    def _score(self, contender: Contender, file: BuiltFile) -> measure.Scores | None:
        yardstick = self._yardstick
        if yardstick.examples is None:
            return None
        if contender in self._scores:
            return self._scores[contender]
        session = open_session(
            file.path,
            provider=contender.way.provider,
            arithmetic=contender.way.arithmetic,
            threads=yardstick.timing.threads,
            disabled_optimizers=_disabled(contender),
        )
        self._scores[contender] = measure.score(
            {_NAME: session}, yardstick.examples, yardstick.task, max_corrupt_fraction=yardstick.max_corrupt_fraction
        )
        return self._scores[contender]

    def _metrics(self, scores: measure.Scores) -> dict[str, float]:
        """The scores, and the share of answers that are those of the first contender."""
        predictions = scores.predictions[_NAME]
        if self._reference is None:
            self._reference = predictions
        return scores.metrics(_NAME) | {"top1_agreement": float(np.mean(predictions == self._reference))}


class RememberedExamples:
    """Labelled samples that are decoded once and scored many times; `Examples`.

    Args:
        examples: Read whole each time where they do not fit.
        max_bytes: Rows beyond so many are not kept.
    """

    def __init__(self, examples: Examples, *, max_bytes: int = _REMEMBERED_BYTES) -> None:
        self._examples, self._max_bytes = examples, max_bytes
        self._kept: list[tuple[Array, Array, int]] | None = None

    @property
    def first_error(self) -> str:
        """See `Examples`."""
        return self._examples.first_error

    def __len__(self) -> int:
        return len(self._examples)

    def batches(self) -> Iterator[tuple[Array, Array, int]]:
        """See `Examples`."""
        if self._kept is not None:
            yield from self._kept
            return
        kept: list[tuple[Array, Array, int]] | None = []
        size = 0
        for batch in self._examples.batches():
            size += batch[0].nbytes
            if size > self._max_bytes:
                kept = None
            if kept is not None:
                kept.append(batch)
            yield batch
        self._kept = kept


def _disabled(contender: Contender) -> tuple[str, ...]:
    return contender.recipe.disabled_optimizers if contender.recipe else ()


def _farthest(answers: Sequence[Array], references: Sequence[Array]) -> float:
    return max(max_abs_diff(answer, reference) for answer, reference in zip(answers, references, strict=True))


def _within(answers: Sequence[Array], references: Sequence[Array], bound: Bound) -> bool:
    return all(
        bool(np.all(np.abs(answer - reference) <= bound.atol + bound.rtol * np.abs(reference)))
        for answer, reference in zip(answers, references, strict=True)
    )
