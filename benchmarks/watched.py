"""Running a command while its memory is watched."""

import contextlib
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import psutil

from benchmarks.processes import ROOT

# Looking at a process of some GB takes it some milliseconds.
_LOOK_S = 0.2


class Cost(NamedTuple):
    """What a command took.

    Attributes:
        seconds: From start to end.
        peak_bytes: Most memory at once, of the command and of all its children together.
        code: Exit code.
    """

    seconds: float
    peak_bytes: int
    code: int


def cost_of(command: Sequence[str], *, patience_s: float) -> Cost:
    """Run a command from the project's folder; what it prints is printed.

    Raises:
        TimeoutExpired: It took longer than it may, and was killed with its children.
    """
    started = time.perf_counter()
    with subprocess.Popen(command, cwd=ROOT) as process, _watched(process.pid) as peak:
        try:
            code = process.wait(timeout=patience_s)
        except subprocess.TimeoutExpired:
            for child in (*_tree(process.pid)[1:], process):
                child.kill()
            raise
        seconds = time.perf_counter() - started
    return Cost(seconds, peak[0], code)


@contextlib.contextmanager
def _watched(pid: int) -> Iterator[list[int]]:
    """The peak so far, as the only entry."""
    peak, ended = [0], threading.Event()

    def watch() -> None:
        while not ended.wait(_LOOK_S):
            peak[0] = max(peak[0], sum(map(_own_bytes, _tree(pid))))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        ended.set()
        watcher.join()


def _tree(pid: int) -> list[psutil.Process]:
    """A process and all below it; none where it has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    return []


def _own_bytes(process: psutil.Process) -> int:
    # The proportional set: pages that several processes share, like TensorFlow's library, count once.
    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        return int(process.memory_full_info().pss)
    return 0
