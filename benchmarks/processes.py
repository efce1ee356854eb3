"""Starting the processes that benchmarks of several workers compare, and reading what they print."""

import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CORES = sorted(os.sched_getaffinity(0))
_PATIENCE_S = 600


def horovodrun(workers: int, module: str, arguments: Sequence[str], settings: Mapping[str, str] | None = None) -> str:
    """What the workers of a Horovod job print.

    Args:
        workers: How many, on this machine.
        module: What each runs.
        arguments: Its command line.
        settings: Environment variables beside those that are there.
    """
    launcher = str(Path(sys.executable).with_name("horovodrun"))
    command = [launcher, "--gloo", "-np", str(workers), sys.executable, "-m", module, *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=_environment(settings), capture_output=True, text=True, timeout=_PATIENCE_S
    )
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def together(module: str, arguments: Sequence[str], settings: Sequence[Mapping[str, str]], *, cores: int) -> list[str]:
    """What plain processes print that begin at the same moment, each on its own share of the cores.

    Args:
        module: What each runs. With `--wait` it says `ready`, and begins at a line from standard input.
        arguments: Its command line.
        settings: Environment variables, of each process.
        cores: Of each process, also its threads; where there are too few, processes share them in turn.
    """
    processes = []
    for number, own in enumerate(settings):
        share = [CORES[(number * cores + core) % len(CORES)] for core in range(cores)]
        threads = {"TF_NUM_INTRAOP_THREADS": str(cores), "TF_NUM_INTEROP_THREADS": str(cores)}
        command = ["taskset", "-c", ",".join(map(str, share)), sys.executable, "-m", module, *arguments, "--wait"]
        processes.append(
            subprocess.Popen(
                command, cwd=ROOT, env=_environment({**threads, **own}), text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )
        )  # fmt: skip
    try:
        for process in processes:
            _wait_until_ready(process)
        for process in processes:
            process.stdin.write("\n")
            process.stdin.flush()
        return [process.communicate(timeout=_PATIENCE_S)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def figures_of(name: str, printed: str) -> list[float]:
    """The numbers of all lines `name=number`."""
    found = re.findall(rf"\b{name}=([\d.]+)", printed)
    if not found:
        sys.exit(f"expected a line {name}=..., received:\n{printed}")
    return [float(number) for number in found]


def figure(name: str, printed: str) -> float:
    """The number of a line `name=number`."""
    return figures_of(name, printed)[0]


def _wait_until_ready(process: subprocess.Popen[str]) -> None:
    for line in process.stdout:
        if line.strip() == "ready":
            return
    sys.exit(f"a process ended before it was ready, with {process.wait()}: {' '.join(process.args)}")


def _environment(settings: Mapping[str, str] | None) -> dict[str, str]:
    return {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT), **(settings or {})}
