"""`python -m tfpipe.tune BUNDLE`: the fastest way to run a bundle on this machine, for the service to take.

Each variant that passed the gate is opened in each way that this machine offers, in a process of its own; answers the
golden samples alone and in batches; and is timed. No TensorFlow.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from tqdm import tqdm

from tfpipe.core import atomic
from tfpipe.core.bundle import Bundle, Execution, open_bundle
from tfpipe.core.certificate import compare
from tfpipe.core.errors import ConfigError, GateError, TfpipeError
from tfpipe.core.parity import BOUNDS, NEIGHBOURS_ATOL, max_abs_diff
from tfpipe.core.signature import Array
from tfpipe.inference.golden import bound_of, golden_rows
from tfpipe.inference.interface import in_runs
from tfpipe.inference.opening import open_inference
from tfpipe.latency import BATCH_SIZES, Feed, Trial, try_out
from tfpipe.ort_providers import Way, ways
from tfpipe.startup import run_command
from tfpipe.tuned import CACHE_VARIABLE, DEFAULT_CACHE_DIR, Choice, Machine, engines_dir, this_machine, write_choice

_OUTPUT = "probabilities"
# Of what is left, the share spent on timing: processes start, and open what they run.
_TIMING_SHARE = 0.5
_LEAST_TIMING_S, _MOST_TIMING_S = 0.3, 4.0
# A process that starts on a busy machine takes seconds.
_LEAST_TIMEOUT_S = 15.0


@dataclass(frozen=True)
class Tuned:
    """What came of tuning.

    Attributes:
        bundle: The bundle.
        choice: Everything that was measured, best first.
        file: Where it was written.
    """

    bundle: Bundle
    choice: Choice
    file: Path


def tune(
    folder: str | Path,
    *,
    max_minutes: float = 1.0,
    threads: int | None = None,
    batch_size: int = 1,
    cache_dir: Path = DEFAULT_CACHE_DIR,
    allow_batch_dependent: bool = False,
    offered: Callable[[str], Sequence[Way]] = ways,
    trial: Callable[..., Trial] = try_out,
    machine: Machine | None = None,
) -> Tuned:
    """Measure the ways to run a bundle here, and keep the choice for the service.

    Args:
        folder: Of the bundle.
        max_minutes: Time for all of it; ways left when it is over are not tried.
        threads: Threads inside one run; None: one a core, as the service does by default.
        batch_size: Rows of the batch whose median latency decides.
        cache_dir: The service's.
        allow_batch_dependent: Whether a way in which a row's answer depends on the rows beside it may come before one
            in which it does not.
        offered: Precision -> ways that this machine offers.
        trial: See `tfpipe.latency.try_out`.
        machine: None: this one.

    Raises:
        ConfigError: A number out of range, or a cache folder that cannot be written.
        BundleError: No bundle, or one that is damaged or of a task unknown here.
        GateError: No way answers as training did.
    """
    _check(max_minutes, threads, batch_size)
    bundle = open_bundle(Path(folder))
    atomic.writable_folder(cache_dir.expanduser(), where="--cache-dir")
    probe = _Probe(bundle, threads, batch_size, engines_dir(cache_dir), trial)
    measured = _measure_all(probe, candidates(bundle, offered), time.monotonic() + 60 * max_minutes)
    choice = Choice(
        bundle_sha256=bundle.sha256,
        machine=machine or this_machine(),
        threads=threads,
        batch_size=batch_size,
        executions=tuple(_ranked(measured, batch_size, allow_batch_dependent=allow_batch_dependent)),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    if not choice.passed:
        reasons = " ".join(f"{one.title}: {' '.join(one.missed)}" for one in choice.executions)
        raise GateError(
            f"{bundle.folder}: expected a way to run it that answers as training did, found none. {reasons}"
        )
    return Tuned(bundle, choice, write_choice(cache_dir, bundle, choice))


def candidates(bundle: Bundle, offered: Callable[[str], Sequence[Way]]) -> list[Execution]:
    """Ways to run a bundle on this machine: those that conversion measured, in their order, then the others.

    A way that missed the gate at conversion keeps its reason; a variant of which no way passed it is left out.
    """
    manifest = bundle.manifest
    passed = bundle.executions()
    recorded = {(one.variant, one.provider, one.arithmetic): one for one in (*passed, *manifest.executions)}
    variants = list(dict.fromkeys(one.variant for one in passed))
    if not manifest.executions and not manifest.forced and "fp32" not in variants:
        # What the others of a bundle that lists no executions were judged by.
        variants.append("fp32")
    found = {
        (name, way.provider, way.arithmetic): Execution(name, way.provider, way.arithmetic)
        for name in variants
        for way in offered(manifest.variants[name].precision)
    }
    return [one for key, one in recorded.items() if key in found] + [
        one for key, one in found.items() if key not in recorded
    ]


class _Probe:
    """Tries executions of one bundle."""

    def __init__(
        self, bundle: Bundle, threads: int | None, batch_size: int, engines: Path, trial: Callable[..., Trial]
    ) -> None:
        self.bundle = bundle
        self._threads, self._engines, self._trial = threads, engines, trial
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


def _measure_all(probe: _Probe, listed: Sequence[Execution], deadline_s: float) -> list[Execution]:
    measured: list[Execution] = []
    with tqdm(total=len(listed), desc="ways to run it", leave=False, disable=None) as progress:
        for index, execution in enumerate(listed):
            progress.set_postfix_str(execution.title)
            left_s = deadline_s - time.monotonic()
            if not execution.passed:
                reason = f"It missed the gate at conversion: {' '.join(execution.missed)}"
                measured.append(replace(execution, missed=(reason,)))
            elif left_s <= 0 and any(one.passed for one in measured):
                measured.append(replace(execution, missed=("Not tried: the time was over. Raise --max-minutes.",)))
            else:
                share_s = _TIMING_SHARE * left_s / (len(listed) - index)
                max_s = min(max(share_s, _LEAST_TIMING_S), _MOST_TIMING_S)
                measured.append(probe.measure(execution, max_s=max_s, timeout_s=max(left_s, _LEAST_TIMEOUT_S)))
            progress.update()
    return measured


def _ranked(measured: Sequence[Execution], batch_size: int, *, allow_batch_dependent: bool) -> list[Execution]:
    passed = [one for one in measured if one.passed]
    passed.sort(key=lambda one: one.latency_ms[str(batch_size)]["p50"])
    if not allow_batch_dependent:
        # Stable: the fastest of each kind stays first.
        passed.sort(key=lambda one: not one.batch_invariant)
    return passed + [one for one in measured if not one.passed]


def table(tuned: Tuned) -> str:
    """Every way with its figures, best first, and why each loser lost."""
    choice = tuned.choice
    threads = choice.threads or choice.machine.cores
    best = choice.executions[0]
    width = max(len(one.title) for one in choice.executions)
    lines = [
        f"{tuned.bundle.manifest.model_name} on {choice.machine.processor}, {choice.machine.cores} cores; "
        f"{threads} threads, decided by the median of batches of {choice.batch_size}",
        f"{'':{width}}{'p50 ms':>10}{'p95 ms':>10}{'p50 ms':>10}{'rows/s':>10}{'memory':>10}{'golden':>10}",
        f"{'':{width}}{'batch 1':>10}{'batch 1':>10}{'batch 8':>10}{'batch 8':>10}{'MB':>10}{'max diff':>10}",
    ]
    size = str(choice.batch_size)
    lines += [f"{one.title:{width}}{_figures(one)}  {_verdict(one, best, size)}" for one in choice.executions]
    return "\n".join(lines) + "\n"


def _figures(execution: Execution) -> str:
    if not execution.latency_ms:
        return f"{'–':>10}" * 6
    one, eight = execution.latency_ms["1"], execution.latency_ms["8"]
    memory = (execution.peak_memory_bytes or 0) / 1e6
    return (
        f"{one['p50']:10.3f}{one['p95']:10.3f}{eight['p50']:10.3f}{execution.rows_per_second['8']:10.0f}"
        f"{memory:10.0f}{execution.golden_max_abs_diff:10.2g}"
    )


def _verdict(execution: Execution, best: Execution, size: str) -> str:
    if execution is best:
        return "chosen" if best.batch_invariant else "chosen, although a row's answer depends on the rows beside it"
    if not execution.passed:
        return " ".join(execution.missed)
    ratio = execution.latency_ms[size]["p50"] / best.latency_ms[size]["p50"]
    beside = "" if execution.batch_invariant else "a row's answer depends on the rows beside it; "
    return f"{beside}{ratio:.2f} times the best's time"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    return run_command(lambda: _command(options))


def _command(options: argparse.Namespace) -> int:
    tuned = tune(
        options.bundle,
        max_minutes=options.max_minutes,
        threads=options.threads,
        batch_size=options.batch_size,
        cache_dir=Path(options.cache_dir or os.environ.get(CACHE_VARIABLE) or DEFAULT_CACHE_DIR),
        allow_batch_dependent=options.allow_batch_dependent,
    )
    sys.stdout.write(table(tuned))
    sys.stdout.write(f"kept for the service on this machine: {tuned.file}\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tfpipe.tune",
        description="Find the fastest way to run a bundle on this machine: which variant, on which execution provider, "
        "in which arithmetic. The service takes it where its settings say auto.",
        epilog="exit codes: 0 done; 2 no bundle, a damaged one, or wrong usage; 3 no way answers as training did; "
        "1 the rest.",
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="folder of a bundle")
    parser.add_argument("--max-minutes", type=float, default=1.0, metavar="N", help="time for all ways (default: 1)")
    parser.add_argument("--threads", type=int, metavar="N", help="threads inside one run (default: one a core)")
    parser.add_argument(
        "--batch-size", type=int, default=1, metavar="N", help="rows of the batch that decides (default: 1)"
    )
    parser.add_argument(
        "--cache-dir", metavar="DIR", help=f"the service's cache (default: {CACHE_VARIABLE}, else {DEFAULT_CACHE_DIR})"
    )
    parser.add_argument(
        "--allow-batch-dependent", action="store_true",
        help="also prefer ways in which a row's answer depends on the rows beside it, where they are faster",
    )  # fmt: skip
    return parser


def _check(max_minutes: float, threads: int | None, batch_size: int) -> None:
    if not 0 < max_minutes < float("inf"):
        raise ConfigError(f"--max-minutes: expected more than 0, received {max_minutes:g}.")
    for name, value in (("--threads", threads), ("--batch-size", batch_size)):
        if value is not None and value < 1:
            raise ConfigError(f"{name}: expected at least 1, received {value}.")


if __name__ == "__main__":
    sys.exit(main())
