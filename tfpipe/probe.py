"""One way to run a bundle, tried in a process of its own: is it as right as training, and how fast?"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from tfpipe.core.bundle import Bundle, Execution
from tfpipe.core.certificate import compare
from tfpipe.core.errors import TfpipeError
from tfpipe.core.parity import BOUNDS, NEIGHBOURS_ATOL, max_abs_diff
from tfpipe.core.signature import Array
from tfpipe.inference.golden import bound_of, golden_rows
from tfpipe.inference.interface import in_runs
from tfpipe.inference.opening import open_inference
from tfpipe.latency import BATCH_SIZES, Feed, Trial
from tfpipe.ort_providers import Way

_OUTPUT = "probabilities"


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
        self._inference = open_inference(bundle)
        self._golden = golden_rows(bundle, self._inference)
        rows = [one.row for one in self._golden]
        alone = [[position] for position in range(len(rows))]
        self._runs = [*alone, *in_runs(self._inference, rows, max(BATCH_SIZES))]
        self._answered = [self._feed([rows[position] for position in run]) for run in self._runs]
        # The longest of texts: what costs most decides.
        longest = sorted(rows, key=len, reverse=True)
        self._batches = {
            size: self._feed([longest[i % len(longest)] for i in range(size)])
            for size in sorted({*BATCH_SIZES, batch_size})
        }

    def measure(self, execution: Execution, *, max_s: float, timeout_s: float) -> Execution:
        """The execution with its figures; with `missed` where it fails or does not answer as training did."""
        variant = self.bundle.manifest.variants[execution.variant]
        try:
            trial = self._trial(
                self.bundle.path(variant.file),
                Way(execution.provider, execution.arithmetic),
                answered=self._answered,
                batches=self._batches,
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
        answers = self._answers(trial.outputs)
        alone, together = answers[: len(self._golden)], answers[len(self._golden) :]
        expected = [one.probabilities for one in self._golden]
        hop = compare(
            "golden",
            "golden samples, alone and in batches",
            answers,
            [*expected, *expected],
            bound_of(self.bundle, execution),
        )
        apart = max(max_abs_diff(one, other) for one, other in zip(together, alone, strict=True))
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
        return {self.bundle.manifest.inputs[0].name: self._inference.batch(rows)}
