"""One way to run a bundle, tried in a process of its own: is it as right as training, and how fast?"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np

from tfpipe.core.bundle import Bundle, Execution
from tfpipe.core.certificate import Hop, compare
from tfpipe.core.errors import BundleError, SignatureError, TfpipeError
from tfpipe.core.golden_tensors import check_tensors, read_golden_tensors
from tfpipe.core.parity import BOUNDS, NEIGHBOURS_ATOL, max_abs_diff
from tfpipe.core.signature import Array
from tfpipe.inference.golden import bound_of, golden_rows
from tfpipe.inference.interface import in_runs
from tfpipe.inference.opening import open_inference
from tfpipe.inference.tensors import TENSOR_TASK, tensor_hop
from tfpipe.latency import BATCH_SIZES, Feed, Trial
from tfpipe.ort_providers import Way

_OUTPUT = "probabilities"
_TITLE = "golden samples, alone and in batches"


class Questions(Protocol):
    """What a model is asked, and how its answers are judged.

    Attributes:
        answered: Inputs whose outputs are judged.
        batches: Inputs to be timed, by batch size.
    """

    answered: list[Feed]
    batches: dict[int, Feed]

    def judge(self, outputs: Sequence[Mapping[str, Array]], execution: Execution) -> tuple[Hop, float]:
        """The answers against Keras's, and by how much one beside others differs at most from the same one alone."""
        ...


class Probe:
    """Tries executions of one bundle.

    Args:
        bundle: Checked.
        threads: Threads inside one run; None: one a core.
        batch_size: Rows of a batch that is timed beside those of `BATCH_SIZES`.
        engines_dir: Where TensorRT keeps its engines.
        trial: See `tfpipe.latency.try_out`.

    Raises:
        BundleError: A task that is unknown here, or no golden samples that can be answered.
    """

    def __init__(
        self, bundle: Bundle, threads: int | None, batch_size: int, engines_dir: Path, trial: Callable[..., Trial]
    ) -> None:
        self.bundle = bundle
        self._threads, self._engines, self._trial = threads, engines_dir, trial
        sizes = sorted({*BATCH_SIZES, batch_size})
        is_tensor = bundle.manifest.task == TENSOR_TASK
        self._questions: Questions = TensorQuestions(bundle, sizes) if is_tensor else RowQuestions(bundle, sizes)

    def measure(self, execution: Execution, *, max_s: float, timeout_s: float) -> Execution:
        """The execution with its figures; with `missed` where it fails or does not answer as training did."""
        variant = self.bundle.manifest.variants[execution.variant]
        try:
            trial = self._trial(
                self.bundle.path(variant.file),
                Way(execution.provider, execution.arithmetic),
                answered=self._questions.answered,
                batches=self._questions.batches,
                threads=self._threads,
                disabled_optimizers=variant.recipe.get("disabled_optimizers", ()),
                engines_dir=self._engines,
                max_s=max_s,
                timeout_s=timeout_s,
            )
        except (TfpipeError, MemoryError) as error:
            return replace(execution, missed=(str(error),))
        return self._judged(execution, trial)

    def _judged(self, execution: Execution, trial: Trial) -> Execution:
        hop, apart = self._questions.judge(trial.outputs, execution)
        limit = BOUNDS["fp32"].atol if execution.arithmetic == "float32" else NEIGHBOURS_ATOL
        missed = [hop.problem] if hop.problem else []
        if hop.agreement is not None and hop.agreement < 1 and not self._faced_the_gate(execution):
            missed.append(
                f"{hop.agreement:.1%} of the golden samples get the class that Keras gives; as conversion did not "
                "measure this way, expected all."
            )
        return replace(
            execution,
            # Not finite: `missed` says so.
            golden_max_abs_diff=1.0 if hop.max_abs_diff is None else hop.max_abs_diff,
            batch_invariant=self.bundle.manifest.variants[execution.variant].batch_invariant and apart <= limit,
            latency_ms=trial.speed.latency_ms,
            rows_per_second=trial.speed.rows_per_second,
            peak_memory_bytes=trial.peak_memory_bytes,
            missed=tuple(missed),
        )

    def _faced_the_gate(self, execution: Execution) -> bool:
        wanted = (execution.variant, execution.provider, execution.arithmetic)
        return any((one.variant, one.provider, one.arithmetic) == wanted for one in self.bundle.executions())


class RowQuestions:
    """The golden samples of images or texts, alone and in batches; see `Questions`.

    Args:
        bundle: Checked.
        sizes: Of the batches to be timed.

    Raises:
        BundleError: A task that is unknown here, or no golden samples that can be answered.
    """

    def __init__(self, bundle: Bundle, sizes: Sequence[int]) -> None:
        self._bundle, self._inference = bundle, open_inference(bundle)
        self._golden = golden_rows(bundle, self._inference)
        rows = [one.row for one in self._golden]
        alone = [[position] for position in range(len(rows))]
        self._runs = [*alone, *in_runs(self._inference, rows, max(BATCH_SIZES))]
        self.answered = [self._feed([rows[position] for position in run]) for run in self._runs]
        # The longest of texts: what costs most decides.
        longest = sorted(rows, key=len, reverse=True)
        self.batches = {size: self._feed([longest[i % len(longest)] for i in range(size)]) for size in sizes}

    def judge(self, outputs: Sequence[Mapping[str, Array]], execution: Execution) -> tuple[Hop, float]:
        """See `Questions.judge`."""
        answers = self._answers(outputs)
        alone, together = answers[: len(self._golden)], answers[len(self._golden) :]
        expected = [one.probabilities for one in self._golden]
        hop = compare("golden", _TITLE, answers, [*expected, *expected], bound_of(self._bundle, execution))
        return hop, max(max_abs_diff(one, other) for one, other in zip(together, alone, strict=True))

    def _answers(self, outputs: Sequence[Mapping[str, Array]]) -> list[Array]:
        """By golden sample: alone, then in batches."""
        count = len(self._golden)
        answers: dict[int, Array] = {}
        for index, (run, output) in enumerate(zip(self._runs, outputs, strict=True)):
            rows = [self._golden[position].row for position in run]
            for position, answer in zip(run, self._inference.cut(output[_OUTPUT], rows), strict=True):
                answers[position if index < count else count + position] = answer
        return [answers[position] for position in range(2 * count)]

    def _feed(self, rows: Sequence[Array]) -> Feed:
        return {self._bundle.manifest.inputs[0].name: self._inference.batch(rows)}


class TensorQuestions:
    """The golden requests of a model of named tensors; see `Questions`.

    Args:
        bundle: Checked, of task `tensor`.
        sizes: Of the batches to be timed: where every input has a first axis of its own name for it, that many of the
            first request; else that request as it is.

    Raises:
        BundleError: No golden samples, or one that does not fit the model.
    """

    def __init__(self, bundle: Bundle, sizes: Sequence[int]) -> None:
        self._bundle, self._golden = bundle, read_golden_tensors(bundle)
        specs = bundle.manifest.inputs
        try:
            for sample in self._golden:
                check_tensors(specs, sample.inputs)
        except SignatureError as error:
            raise BundleError(f"{bundle.folder}: golden samples: {error}") from error
        self.answered: list[Feed] = [sample.inputs for sample in self._golden]
        first = self._golden[0].inputs
        has_batch = len({spec.shape[0] if spec.shape else None for spec in specs}) == 1 and all(
            spec.shape and isinstance(spec.shape[0], str) for spec in specs
        )
        self.batches: dict[int, Feed] = {
            size: {name: np.repeat(array[:1], size, axis=0) for name, array in first.items()} if has_batch else first
            for size in sizes
        }

    def judge(self, outputs: Sequence[Mapping[str, Array]], execution: Execution) -> tuple[Hop, float]:
        """See `Questions.judge`; whether answers depend on a batch is what conversion said of the variant."""
        precision = self._bundle.manifest.variants[execution.variant].precision
        hop = tensor_hop(
            "golden",
            "golden samples",
            outputs,
            [sample.outputs for sample in self._golden],
            bound_of(self._bundle, execution),
            is_exact=precision == "fp32" and execution.arithmetic == "float32",
        )
        return hop, 0.0
