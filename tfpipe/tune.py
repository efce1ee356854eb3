"""`python -m tfpipe.tune BUNDLE`: the fastest way to run a bundle on this machine, for the service to take.

Each variant that passed the gate is opened in each way that this machine offers, in a process of its own; answers the
golden samples alone and in batches; and is timed. No TensorFlow.
"""

if __name__ == "__main__":
    from tfpipe.interruption import end_at_signals

    end_at_signals()

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from tqdm import tqdm

from tfpipe.core import atomic
from tfpipe.core.bundle import Bundle, Execution, open_bundle
from tfpipe.core.errors import ConfigError, GateError
from tfpipe.latency import Trial, try_out
from tfpipe.ort_providers import Way, ways
from tfpipe.probe import Probe
from tfpipe.startup import run_command
from tfpipe.tuned import CACHE_VARIABLE, DEFAULT_CACHE_DIR, Choice, Machine, engines_dir, this_machine, write_choice

# Of what is left, the share spent on timing: processes start, and open what they run.
_TIMING_SHARE = 0.5
_LEAST_TIMING_S, _MOST_TIMING_S = 0.3, 4.0
# Closer than this, the order may be chance.
_CLOSE = 1.3
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
    probe = Probe(bundle, threads, batch_size, engines_dir(cache_dir), trial)
    deadline_s = time.monotonic() + 60 * max_minutes
    measured = _measure_all(probe, candidates(bundle, offered), deadline_s)
    measured = _measure_again(probe, measured, batch_size, deadline_s)
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
    recorded: dict[tuple[str, str, str], Execution] = {}
    for one in (*passed, *manifest.executions):
        # The first counts: what was forced has passed.
        recorded.setdefault((one.variant, one.provider, one.arithmetic), one)
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


def _measure_all(probe: Probe, listed: Sequence[Execution], deadline_s: float) -> list[Execution]:
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


def _measure_again(probe: Probe, measured: Sequence[Execution], batch_size: int, deadline_s: float) -> list[Execution]:
    """Those near the fastest once more, the last first: a busy moment of the machine meets one way, not its rival."""
    passed = [one for one in measured if one.passed]
    fastest = min((_median_ms(one, batch_size) for one in passed), default=0.0)
    close = [one for one in reversed(passed) if _median_ms(one, batch_size) <= _CLOSE * fastest]
    better: dict[str, Execution] = {}
    for index, one in enumerate(close if len(close) > 1 else []):
        left_s = deadline_s - time.monotonic()
        if left_s <= 0:
            break
        max_s = min(_TIMING_SHARE * left_s / (len(close) - index), _MOST_TIMING_S)
        again = probe.measure(one, max_s=max_s, timeout_s=max(left_s, _LEAST_TIMEOUT_S))
        if not again.passed or _median_ms(again, batch_size) < _median_ms(one, batch_size):
            better[one.title] = again
    return [better.get(one.title, one) for one in measured]


def _median_ms(execution: Execution, batch_size: int) -> float:
    return execution.latency_ms[str(batch_size)]["p50"]


def _ranked(measured: Sequence[Execution], batch_size: int, *, allow_batch_dependent: bool) -> list[Execution]:
    passed = [one for one in measured if one.passed]
    passed.sort(key=lambda one: _median_ms(one, batch_size))
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
    cache_dir = Path(options.cache_dir or os.environ.get(CACHE_VARIABLE) or DEFAULT_CACHE_DIR)
    tuned = tune(
        _folder(options.bundle, cache_dir),
        max_minutes=options.max_minutes,
        threads=options.threads,
        batch_size=options.batch_size,
        cache_dir=cache_dir,
        allow_batch_dependent=options.allow_batch_dependent,
    )
    sys.stdout.write(table(tuned))
    sys.stdout.write(f"kept for the service on this machine: {tuned.file}\n")
    return 0


def _folder(bundle: str, cache_dir: Path) -> Path:
    if not bundle.startswith("models:/"):
        return Path(bundle).expanduser()
    # MLflow takes seconds to import; a bundle's folder is tuned without it.
    from tfpipe.registry import Registry

    registry = Registry()
    atomic.writable_folder(cache_dir.expanduser(), where="--cache-dir")
    return registry.download_bundle(registry.resolve(bundle), cache_dir.expanduser())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tfpipe.tune",
        description="Find the fastest way to run a bundle on this machine: which variant, on which execution provider, "
        "in which arithmetic. The service takes it where its settings say auto.",
        epilog="exit codes: 0 done; 2 no bundle, a damaged one, or wrong usage; 3 no way answers as training did; "
        "1 the rest.",
    )
    parser.add_argument("bundle", metavar="BUNDLE", help="folder of a bundle, or models:/NAME/VERSION or @ALIAS")
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
