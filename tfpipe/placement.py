"""Which cores and how many threads each worker of a machine gets. Arithmetic over what /sys and /proc say.

quota      what the container may use of the processors, in processors; a limit of time, not of which
node       NUMA node: processors that share a memory; reaching another node's memory is slower
core       physical core; its hyper-threads share one arithmetic unit, so that a thread a core is enough
"""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby, zip_longest
from pathlib import Path

from tfpipe.cgroups import cpu_quota

# Ranks that are named one by one in the line that says where they are; more are told by machine.
_MOST_NAMED = 8


@dataclass(frozen=True, order=True)
class Processor:
    """A logical processor that this process may run on.

    Attributes:
        node: NUMA node.
        core: The lowest processor number of the same physical core.
        number: As the kernel counts.
    """

    node: int
    core: int
    number: int


@dataclass(frozen=True)
class Machine:
    """What this process may use of its machine.

    Attributes:
        processors: Sorted by node, core, number; at least one.
        quota: Processors' worth of time that the container may take; None: no limit.
    """

    processors: tuple[Processor, ...]
    quota: float | None = None

    @property
    def cores(self) -> list[tuple[Processor, ...]]:
        """The hyper-threads of each physical core, in order."""
        return [tuple(group) for _, group in groupby(self.processors, key=lambda p: (p.node, p.core))]


@dataclass(frozen=True)
class Placement:
    """Where one worker runs.

    Attributes:
        processors: Numbers of the logical processors, ascending.
        threads: Size of TensorFlow's pools, inside an operation and between operations; None: TensorFlow's own choice,
            one per processor.
        bound: Whether the worker is kept to these processors, or the processors are simply those that it may use.
    """

    processors: tuple[int, ...]
    threads: int | None
    bound: bool


def read_machine(processors: Iterable[int], root: Path = Path("/")) -> Machine:
    """What this process may use of its machine.

    Args:
        processors: Those in its affinity mask; at least one.
        root: Where /sys and /proc are. What is missing there is taken as one node, one thread a core, no quota.
    """
    allowed = set(processors)
    folder = root / "sys/devices/system"
    nodes = {
        number: int(path.name.removeprefix("node"))
        for path in sorted((folder / "node").glob("node[0-9]*"))
        for number in parse_cpu_list(_text(path / "cpulist"))
    }
    siblings = {
        number: parse_cpu_list(_text(folder / f"cpu/cpu{number}/topology/thread_siblings_list")) for number in allowed
    }
    found = [Processor(nodes.get(n, 0), min(siblings[n], default=n), n) for n in allowed]
    return Machine(tuple(sorted(found)), cpu_quota(root))


def place(machine: Machine, *, local_rank: int, local_size: int, threads: int | None = None) -> Placement:
    """The share of one of several workers that fill a machine.

    As many physical cores as an even share has; inside one NUMA node where that costs no worker a core. With more
    workers than cores, hyper-threads are shared out; with more workers than those, several workers share one.

    Args:
        machine: The same for all of its workers.
        local_rank: Number of this worker on the machine.
        local_size: Workers on the machine.
        threads: Given by the user; None: one for each physical core of the share, and together no more than the quota.
    """
    cores = machine.cores
    if local_size <= len(cores):
        mine = _shares(cores, local_size)[local_rank]
    else:
        # Each core's first hyper-thread, then the second ones: a worker has a core of its own while there are any.
        spread = [processor for row in zip_longest(*cores) for processor in row if processor is not None]
        mine = [(spread[local_rank % len(spread)],)]
    numbers = tuple(sorted(processor.number for core in mine for processor in core))
    return Placement(numbers, threads or min(len(mine), _allowance(machine, local_size)), bound=True)


def keep(machine: Machine, *, local_size: int = 1, threads: int | None = None) -> Placement:
    """All that the process may use, bound by nobody or by its launcher already; see `place`."""
    allowance = _allowance(machine, local_size)
    limited = allowance if allowance < len(machine.processors) else None
    return Placement(tuple(sorted(p.number for p in machine.processors)), threads or limited, bound=False)


def bound_by_launcher() -> bool:
    """Whether this process may use less than the one that started it: `mpirun --bind-to core`, Slurm, taskset."""
    try:
        return os.sched_getaffinity(0) < os.sched_getaffinity(os.getppid())
    except OSError:
        return False


def describe(placements: Sequence[tuple[str, Placement]]) -> str:
    """One line that says where all workers are.

    Args:
        placements: Host name and place of each worker, in rank order.
    """
    if len(placements) <= _MOST_NAMED:
        several = len({host for host, _ in placements}) > 1
        return "; ".join(
            f"worker {rank}{f' on {host}' if several else ''} {_on(placement)}"
            for rank, (host, placement) in enumerate(placements)
        )
    lines = []
    for host in dict.fromkeys(host for host, _ in placements):
        there = [(rank, placement) for rank, (name, placement) in enumerate(placements) if name == host]
        sizes = sorted({len(placement.processors) for _, placement in there})
        threads = sorted({placement.threads or 0 for _, placement in there})
        ranks = format_cpu_list([rank for rank, _ in there])
        lines.append(f"{host}: workers {ranks} on {_span(sizes, 'processor')} each, {_span(threads, 'thread')}")
    return "; ".join(lines)


def parse_cpu_list(text: str) -> list[int]:
    """The kernel's lists: "0-3,8" is [0, 1, 2, 3, 8]. What is no such list gives []."""
    if not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*", text):
        return []
    ranges = [part.partition("-") for part in text.split(",")]
    return [number for low, _, high in ranges for number in range(int(low), int(high or low) + 1)]


def format_cpu_list(numbers: Sequence[int]) -> str:
    """The inverse of `parse_cpu_list`, for ascending numbers."""
    runs = [list(run) for _, run in groupby(enumerate(numbers), key=lambda pair: pair[1] - pair[0])]
    return ",".join(f"{run[0][1]}-{run[-1][1]}" if len(run) > 1 else str(run[0][1]) for run in runs)


def _shares(cores: Sequence[tuple[Processor, ...]], workers: int) -> list[list[tuple[Processor, ...]]]:
    """The cores of each worker; there are at least as many cores as workers."""
    nodes = [list(group) for _, group in groupby(cores, key=lambda core: core[0].node)]
    count = [0] * len(nodes)
    for _ in range(workers):
        # Where one more worker leaves the most cores to each: d'Hondt's rule, which makes the smallest share largest.
        roomiest = max(range(len(nodes)), key=lambda n: (len(nodes[n]) / (count[n] + 1), -n))
        count[roomiest] += 1
    smallest = min(len(node) // n for node, n in zip(nodes, count, strict=True) if n)
    if smallest < len(cores) // workers:
        return _cut(list(cores), workers)
    return [share for node, n in zip(nodes, count, strict=True) for share in _cut(node, n)]


def _cut(cores: list[tuple[Processor, ...]], pieces: int) -> list[list[tuple[Processor, ...]]]:
    return [cores[i * len(cores) // pieces : (i + 1) * len(cores) // pieces] for i in range(pieces)]


def _allowance(machine: Machine, local_size: int) -> int:
    """Threads that the quota lets each worker keep busy, rounded to the nearest: half a processor is worth a thread."""
    if machine.quota is None:
        return len(machine.processors)
    return max(1, int(machine.quota / local_size + 0.5))


def _on(placement: Placement) -> str:
    numbers = format_cpu_list(placement.processors)
    where = f"on core{'s' if len(placement.processors) > 1 else ''} {numbers}"
    threads = placement.threads or len(placement.processors)
    return f"{where}, {threads} thread{'s' if threads > 1 else ''}"


def _span(values: Sequence[int], unit: str) -> str:
    span = str(values[0]) if len(values) == 1 else f"{values[0]}-{values[-1]}"
    return f"{span} {unit}" if span == "1" else f"{span} {unit}s"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
