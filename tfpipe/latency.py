"""How fast a model graph answers, and the memory that it needs; without TensorFlow.

`measure` times a session that is open. `try_out` opens one in a process of its own (`python -m tfpipe.latency`), so
that memory is that of a process which does nothing else, and a provider that crashes or hangs ends that process alone.
"""

import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from tfpipe.core import errors
from tfpipe.core.errors import InferenceError, TfpipeError
from tfpipe.core.signature import Array
from tfpipe.ort import OnnxModel, open_session
from tfpipe.ort_providers import Way

BATCH_SIZES = (1, 8)
PERCENTILES = (50, 95, 99)
# Enough for a 99th percentile that ten runs lie above.
MOST_RUNS = 1000
# Even where one run takes longer than all may: a median of fewer is chance.
_LEAST_RUNS = 3
# Allocation and packing of weights happen in the first runs; a slow model cannot spare more of its time.
_WARM_UP_RUNS = 5
_WARM_UP_SHARE = 0.2
_TASK, _INPUTS, _RESULT, _OUTPUTS = "task.json", "inputs.npz", "result.json", "outputs.npz"

Feed: TypeAlias = Mapping[str, Array]
"""Array by input name."""


@dataclass(frozen=True)
class Speed:
    """What one session, asked by one caller, took.

    Attributes:
        latency_ms: By batch size, {"1": {"p50": 0.2, "p95": 0.3, "p99": 0.4}, "8": ...}.
        rows_per_second: By batch size.
    """

    latency_ms: dict[str, dict[str, float]]
    rows_per_second: dict[str, float]


@dataclass(frozen=True)
class Trial:
    """What came of a session in a process of its own.

    Attributes:
        outputs: Array by output name, for each feed to be answered.
        speed: See `Speed`.
        peak_memory_bytes: Most memory resident; Python and ONNX Runtime, some 60 MB, are in it.
        on_cpu: See `OnnxModel.on_cpu`.
    """

    outputs: list[dict[str, Array]]
    speed: Speed
    peak_memory_bytes: int
    on_cpu: tuple[str, ...]


def measure(
    model: OnnxModel,
    batches: Mapping[int, Feed],
    *,
    max_s: float = 2.0,
    most_runs: int = MOST_RUNS,
    clock: Callable[[], float] = time.perf_counter,
) -> Speed:
    """Time a session that no other one disturbs.

    Args:
        model: Open.
        batches: The model's inputs by batch size.
        max_s: For all batch sizes together; held but for the first runs of a slow model.
        most_runs: Of one batch size.
        clock: Seconds.

    Raises:
        InferenceError: The model failed.
    """
    each_s = max_s / len(batches)
    seconds = {size: _durations_s(model, feed, each_s, most_runs, clock) for size, feed in batches.items()}
    return Speed(
        {
            str(size): {f"p{q}": round(float(np.percentile(took, q)) * 1e3, 4) for q in PERCENTILES}
            for size, took in seconds.items()
        },
        {str(size): round(size / float(np.mean(took)), 2) for size, took in seconds.items()},
    )


def _durations_s(model: OnnxModel, feed: Feed, max_s: float, most_runs: int, clock: Callable[[], float]) -> list[float]:
    began = clock()
    for _ in range(_WARM_UP_RUNS):
        model.run(feed)
        if clock() - began > _WARM_UP_SHARE * max_s:
            break
    durations: list[float] = []
    while len(durations) < most_runs:
        started = clock()
        model.run(feed)
        durations.append(clock() - started)
        if len(durations) >= _LEAST_RUNS and clock() - began > max_s:
            break
    return durations


def try_out(
    file: Path,
    way: Way,
    *,
    answered: Sequence[Feed],
    batches: Mapping[int, Feed],
    threads: int | None = 1,
    disabled_optimizers: Sequence[str] = (),
    engines_dir: Path | None = None,
    max_s: float = 2.0,
    most_runs: int = MOST_RUNS,
    timeout_s: float = 60.0,
) -> Trial:
    """Open a file in a process of its own, let it answer, and time it.

    Args:
        file: An ONNX model.
        way: How to run it.
        answered: Inputs whose outputs are wanted.
        batches: Inputs to be timed, by batch size.
        threads: See `open_session`.
        disabled_optimizers: See `open_session`.
        engines_dir: See `open_session`.
        max_s: See `measure`.
        most_runs: See `measure`.
        timeout_s: For everything, the start of the process and the building of an engine included.

    Raises:
        ConfigError: See `open_session`.
        BundleError: See `open_session`.
        InferenceError: The model failed, or its process crashed or took too long.
        MemoryError: There was not enough of it.
    """
    task = {
        "file": str(file.resolve()),
        "way": asdict(way),
        "answered": len(answered),
        "batches": list(batches),
        "threads": threads,
        "disabled_optimizers": list(disabled_optimizers),
        "engines_dir": None if engines_dir is None else str(engines_dir.resolve()),
        "max_s": max_s,
        "most_runs": most_runs,
    }
    with tempfile.TemporaryDirectory(prefix="tfpipe-latency-") as name:
        folder = Path(name)
        (folder / _TASK).write_text(json.dumps(task), encoding="utf-8")
        _write_feeds(folder / _INPUTS, [*answered, *batches.values()])
        _run_apart(folder, way, timeout_s)
        result: dict[str, Any] = json.loads((folder / _RESULT).read_text(encoding="utf-8"))
        if "error" in result:
            raise _error_of(result["error"], result["message"])
        outputs = _read_feeds(folder / _OUTPUTS, len(answered))
    return Trial(outputs, Speed(**result["speed"]), result["peak_memory_bytes"], tuple(result["on_cpu"]))


def peak_memory_bytes() -> int:
    """Most memory that was ever resident in this process.

    Not `ru_maxrss`, which a new process inherits from the one that started it (Linux: `exec` carries it over).
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main(arguments: Sequence[str] | None = None) -> int:
    """What `try_out` starts: `python -m tfpipe.latency FOLDER`."""
    (name,) = sys.argv[1:] if arguments is None else arguments
    folder = Path(name)
    task: dict[str, Any] = json.loads((folder / _TASK).read_text(encoding="utf-8"))
    try:
        result = _carry_out(folder, task)
    except (TfpipeError, MemoryError) as error:
        result = {"error": type(error).__name__, "message": str(error)}
    (folder / _RESULT).write_text(json.dumps(result), encoding="utf-8")
    return 0


def _carry_out(folder: Path, task: Mapping[str, Any]) -> dict[str, Any]:
    feeds = _read_feeds(folder / _INPUTS, task["answered"] + len(task["batches"]))
    model = open_session(
        Path(task["file"]),
        provider=task["way"]["provider"],
        arithmetic=task["way"]["arithmetic"],
        threads=task["threads"],
        disabled_optimizers=task["disabled_optimizers"],
        engines_dir=None if task["engines_dir"] is None else Path(task["engines_dir"]),
    )
    _write_feeds(folder / _OUTPUTS, [model.run(feed) for feed in feeds[: task["answered"]]])
    timed = dict(zip(task["batches"], feeds[task["answered"] :], strict=True))
    speed = measure(model, timed, max_s=task["max_s"], most_runs=task["most_runs"]) if timed else Speed({}, {})
    return {"speed": asdict(speed), "on_cpu": model.on_cpu, "peak_memory_bytes": peak_memory_bytes()}


def _run_apart(folder: Path, way: Way, timeout_s: float) -> None:
    command = [sys.executable, "-m", "tfpipe.latency", str(folder)]
    where = f"model on {way.title}"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise InferenceError(f"{where}: expected it to be measured within {timeout_s:.0f} s; it was not.") from error
    if done.returncode:
        ended = f"signal {signal.Signals(-done.returncode).name}" if done.returncode < 0 else f"code {done.returncode}"
        last = (done.stderr.strip().splitlines() or [""])[-1]
        raise InferenceError(f"{where}: expected its process to end well, but it ended with {ended}. {last}".rstrip())


def _error_of(kind: str, message: str) -> Exception:
    return MemoryError(message) if kind == "MemoryError" else getattr(errors, kind)(message)


def _write_feeds(path: Path, feeds: Sequence[Feed]) -> None:
    # Names of tensors may hold any character: they go into a list, positions into the file.
    names = json.dumps([list(feed) for feed in feeds])
    arrays = {f"{i}_{j}": array for i, feed in enumerate(feeds) for j, array in enumerate(feed.values())}
    np.savez(path, names=np.frombuffer(names.encode(), np.uint8), **arrays)


def _read_feeds(path: Path, count: int) -> list[dict[str, Array]]:
    with np.load(path) as content:
        names = json.loads(content["names"].tobytes())
        return [{name: content[f"{i}_{j}"] for j, name in enumerate(names[i])} for i in range(count)]


if __name__ == "__main__":
    sys.exit(main())
