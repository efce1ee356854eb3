"""What control groups allow, read from made folders."""

from pathlib import Path

import pytest

from tfpipe.cgroups import MemoryLimit, available_memory_bytes, cpu_quota, memory_limits

MIB = 2**20
NO_LIMIT = str(9223372036854771712)


def write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def make(root: Path, group: str, files: dict[str, str]) -> None:
    write(root, "proc/self/cgroup", group + "\n")
    for name, text in files.items():
        write(root, f"sys/fs/cgroup/{name}", text + "\n")


@pytest.mark.parametrize(
    ("group", "files", "quota"),
    [
        # Version 2: the group's own limit, and those above it; the least counts.
        ("0::/a/b", {"a/b/cpu.max": "150000 100000", "a/cpu.max": "max 100000"}, 1.5),
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "a/cpu.max": "100000 100000"}, 1.0),
        ("0::/a/b", {"a/b/cpu.max": "max 100000", "cpu.max": "max"}, None),
        # In a container the group is the root of the mount, whatever the path says.
        ("0::/", {"cpu.max": "200000 100000"}, 2.0),
        ("0::/../../pod", {"cpu.max": "50000 100000"}, 0.5),
        # Version 1, mounted under the controllers' names or under "cpu".
        ("4:cpu,cpuacct:/docker/x\n0::/", {"cpu,cpuacct/docker/x/cpu.cfs_quota_us": "250000"}, 2.5),
        ("4:cpu,cpuacct:/docker/x", {"cpu/cpu.cfs_quota_us": "50000"}, 0.5),
        ("4:cpu,cpuacct:/docker/x", {"cpu/cpu.cfs_quota_us": "-1"}, None),
        ("4:cpuset:/x", {"cpuset/x/cpu.max": "50000 100000"}, None),
        ("nonsense", {}, None),
    ],
)
def test_the_quota_of_a_control_group_is_read(tmp_path, group, files, quota):
    periods = {name.replace("quota", "period"): "100000" for name in files if name.endswith("cfs_quota_us")}
    make(tmp_path, group, {**files, **periods})

    assert cpu_quota(tmp_path) == quota


@pytest.mark.parametrize(
    ("group", "files", "limits"),
    [
        (
            "0::/a/b",
            {
                "a/b/memory.max": str(900 * MIB),
                "a/b/memory.current": str(300 * MIB),
                "a/b/memory.stat": f"anon 1\ninactive_file {100 * MIB}",
                "a/memory.max": str(500 * MIB),
                "a/memory.current": str(400 * MIB),
                "memory.max": "max",
                "memory.current": "1",
            },
            [MemoryLimit(500 * MIB, 400 * MIB), MemoryLimit(900 * MIB, 200 * MIB)],
        ),
        (
            "7:memory:/x\n0::/",
            {
                "memory/x/memory.limit_in_bytes": str(300 * MIB),
                "memory/x/memory.usage_in_bytes": str(200 * MIB),
                "memory/x/memory.stat": f"inactive_file 0\ntotal_inactive_file {250 * MIB}",
                "memory/memory.limit_in_bytes": NO_LIMIT,
                "memory/memory.usage_in_bytes": "7",
            },
            [MemoryLimit(300 * MIB, 0)],
        ),
        ("0::/", {}, []),
    ],
)
def test_the_memory_of_a_control_group_is_read(tmp_path, group, files, limits):
    make(tmp_path, group, files)

    assert memory_limits(tmp_path) == limits


def test_the_memory_left_is_the_least_of_the_machine_and_its_groups(tmp_path):
    assert available_memory_bytes(tmp_path) is None

    write(tmp_path, "proc/meminfo", "MemTotal:       2048 kB\nMemAvailable:    1024 kB\n")
    assert available_memory_bytes(tmp_path) == MIB

    make(tmp_path, "0::/", {"memory.max": str(MIB), "memory.current": str(MIB - 4096)})
    assert available_memory_bytes(tmp_path) == 4096

    make(tmp_path, "0::/", {"memory.max": str(MIB), "memory.current": str(MIB + 4096)})
    assert available_memory_bytes(tmp_path) == 0
