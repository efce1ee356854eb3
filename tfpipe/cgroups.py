"""What the control groups of this process allow it: processor time and memory; version 1 and 2."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

ROOT = Path("/")
# Version 1 writes a number near 2**63 where there is no limit.
_NO_LIMIT_BYTES = 1 << 60
Found = TypeVar("Found")


@dataclass(frozen=True)
class MemoryLimit:
    """A group's memory.

    Attributes:
        limit_bytes: The most that its processes may have together.
        used_bytes: What they have that the kernel cannot take back: without the files that it caches.
    """

    limit_bytes: int
    used_bytes: int


def cpu_quota(root: Path = ROOT) -> float | None:
    """Processors' worth of time that the process may take, the least of its group and those above it.

    Args:
        root: What stands for the root of the file system.

    Returns:
        E.g. 1.5; None: as many as there are.
    """
    return min(_found(root, "cpu", _cpu_limit), default=None)


def memory_limits(root: Path = ROOT) -> list[MemoryLimit]:
    """Limits on the memory of the process's group and those above it, of which each holds.

    Args:
        root: What stands for the root of the file system.
    """
    return list(_found(root, "memory", _memory_limit))


def available_memory_bytes(root: Path = ROOT) -> int | None:
    """Memory that the process can still take: what the machine has left and its control groups allow.

    Args:
        root: What stands for the root of the file system.

    Returns:
        None where the system does not tell.
    """
    left = [max(one.limit_bytes - one.used_bytes, 0) for one in memory_limits(root)]
    told = _fields(root / "proc/meminfo").get("MemAvailable:")
    # The file's unit is kB, which means KiB.
    return min([*left, *([] if told is None else [told * 1024])], default=None)


def _found(root: Path, controller: str, read: Callable[[Path], Found | None]) -> Iterator[Found]:
    """What a function finds in the folders of the process's groups."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        if line.count(":") < 2:
            continue
        for folder in _folders(root / "sys/fs/cgroup", controller, *line.split(":", 2)[1:]):
            found = read(folder)
            if found is not None:
                yield found


def _folders(mount: Path, controller: str, controllers: str, group: str) -> list[Path]:
    """Folders of one line of /proc/self/cgroup: "4:cpu,cpuacct:/a/b", or "0::/a/b" of version 2.

    A container without a name space of its own reads the host's path, and finds its own group as the root of the mount.
    """
    if controllers and controller not in controllers.split(","):
        return []
    bases = [mount / controllers, mount / controller] if controllers else [mount, mount / "unified"]
    parts = [part for part in group.split("/") if part not in ("", "..")]
    return [base.joinpath(*parts[:depth]) for base in dict.fromkeys(bases) for depth in range(len(parts) + 1)]


def _cpu_limit(folder: Path) -> float | None:
    quota, _, period = _text(folder / "cpu.max").partition(" ")
    if not quota:
        quota, period = _text(folder / "cpu.cfs_quota_us"), _text(folder / "cpu.cfs_period_us")
    # "max" and -1: no limit.
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) > 0 else None


def _memory_limit(folder: Path) -> MemoryLimit | None:
    limit, used = _text(folder / "memory.max"), _text(folder / "memory.current")
    cached = "inactive_file"
    if not limit:
        limit, used = _text(folder / "memory.limit_in_bytes"), _text(folder / "memory.usage_in_bytes")
        # A group's own numbers in version 1 leave out those below it, whose memory its usage counts.
        cached = "total_inactive_file"
    if not limit.isdigit() or int(limit) > _NO_LIMIT_BYTES or not used.isdigit():
        return None
    reclaimable = _fields(folder / "memory.stat").get(cached, 0)
    return MemoryLimit(int(limit), max(int(used) - reclaimable, 0))


def _fields(path: Path) -> dict[str, int]:
    """Lines like "inactive_file 4096" and "MemAvailable:  123 kB"."""
    words = [line.split() for line in _text(path).splitlines()]
    return {line[0]: int(line[1]) for line in words if len(line) > 1 and line[1].isdigit()}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""
