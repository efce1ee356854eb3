"""Which cores and threads a worker gets, on machines that are folders of a fake /sys and /proc."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfpipe.placement import (
    Machine,
    Placement,
    Processor,
    describe,
    format_cpu_list,
    keep,
    parse_cpu_list,
    place,
    read_machine,
)


def machine(nodes=1, cores=4, threads=1, quota=None):
    """`nodes` NUMA nodes of `cores` cores each; second hyper-threads are numbered after all the first, as on Linux."""
    total = nodes * cores
    return Machine(
        tuple(
            sorted(
                Processor(core // cores, core, core + thread * total)
                for core in range(total)
                for thread in range(threads)
            )
        ),
        quota,
    )


def shares(target, workers, **options):
    return [place(target, local_rank=rank, local_size=workers, **options) for rank in range(workers)]


def write(root, path, text):
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def numbers(target, workers):
    return [list(share.processors) for share in shares(target, workers)]


@pytest.mark.parametrize(
    ("target", "workers", "expected"),
    [
        (machine(cores=2), 1, [[0, 1]]),
        (machine(cores=2), 2, [[0], [1]]),
        (machine(cores=4), 3, [[0], [1], [2, 3]]),
        # Inside one node each, though an even cut would go through the middle of the second worker's cores.
        (machine(nodes=2, cores=4), 3, [[0, 1], [2, 3], [4, 5, 6, 7]]),
        (machine(nodes=2, cores=2), 2, [[0, 1], [2, 3]]),
        # One worker, two nodes: all of the machine rather than half of it.
        (machine(nodes=2, cores=2), 1, [[0, 1, 2, 3]]),
        # Both hyper-threads of a core go to the same worker ...
        (machine(cores=2, threads=2), 2, [[0, 2], [1, 3]]),
        # ... until there are more workers than cores.
        (machine(cores=2, threads=2), 3, [[0], [1], [2]]),
        (machine(cores=2), 5, [[0], [1], [0], [1], [0]]),
    ],
)
def test_workers_share_a_machine(target, workers, expected):
    assert numbers(target, workers) == expected


@given(st.integers(1, 4), st.integers(1, 9), st.integers(1, 2), st.integers(1, 40), st.none() | st.floats(0.1, 80))
def test_every_worker_has_a_place_of_the_machine_and_no_core_is_shared_while_there_are_enough(
    nodes, cores, threads, workers, quota
):
    target = machine(nodes, cores, threads, quota)

    placed = shares(target, workers)

    all_of_it = {processor.number for processor in target.processors}
    used = [number for share in placed for number in share.processors]
    assert all(share.processors and set(share.processors) <= all_of_it for share in placed)
    assert all(1 <= share.threads <= len(share.processors) for share in placed)
    if workers <= nodes * cores:
        assert len(used) == len(set(used))
        assert min(len(share.processors) for share in placed) >= threads * (nodes * cores // workers)
    else:
        busiest = max(used.count(number) for number in all_of_it)
        assert busiest <= -(-workers // len(all_of_it))
    if quota is not None:
        # Rounded to the nearest thread, at least one each.
        assert sum(share.threads for share in placed) <= max(workers, quota + workers / 2)


@given(st.integers(2, 4), st.integers(1, 8), st.integers(1, 2), st.data())
def test_a_worker_stays_inside_one_node_where_workers_divide_the_nodes_evenly(nodes, cores, threads, data):
    each = data.draw(st.integers(1, cores))
    target = machine(nodes, cores, threads)
    node_of = {processor.number: processor.node for processor in target.processors}

    placed = shares(target, nodes * each)

    assert all(len({node_of[number] for number in share.processors}) == 1 for share in placed)


@pytest.mark.parametrize(
    ("quota", "workers", "threads"), [(None, 2, 4), (4.0, 2, 2), (3.0, 2, 2), (2.8, 2, 1), (0.5, 2, 1), (20.0, 2, 4)]
)
def test_a_quota_below_the_cores_limits_threads_not_cores(quota, workers, threads):
    placed = shares(machine(cores=8, quota=quota), workers)

    # Other containers share these cores: bound to two of them, all would crowd on the same two.
    assert [len(share.processors) for share in placed] == [4, 4]
    assert [share.threads for share in placed] == [threads] * workers


def test_a_thread_a_physical_core_and_as_many_as_the_user_says():
    target = machine(cores=4, threads=2)

    assert [share.threads for share in shares(target, 2)] == [2, 2]
    assert [share.threads for share in shares(target, 2, threads=7)] == [7, 7]


def test_alone_nothing_is_bound_and_only_a_quota_limits_threads():
    assert keep(machine(cores=4)) == Placement((0, 1, 2, 3), None, bound=False)
    assert keep(machine(cores=4, quota=1.5)) == Placement((0, 1, 2, 3), 2, bound=False)
    assert keep(machine(cores=4, quota=9.0)).threads is None
    assert keep(machine(cores=4, quota=2.0), threads=3).threads == 3


def test_a_machine_is_read_from_what_the_kernel_says(tmp_path):
    write(tmp_path, "sys/devices/system/node/node0/cpulist", "0-1,4-5\n")
    write(tmp_path, "sys/devices/system/node/node1/cpulist", "2-3,6-7\n")
    for number in range(8):
        pair = f"{number % 4},{number % 4 + 4}\n"
        write(tmp_path, f"sys/devices/system/cpu/cpu{number}/topology/thread_siblings_list", pair)

    found = read_machine([0, 2, 3, 6, 7], tmp_path)

    # Processor 4 is not ours: 0 has its core to itself.
    assert found.processors == (
        Processor(0, 0, 0), Processor(1, 2, 2), Processor(1, 2, 6), Processor(1, 3, 3), Processor(1, 3, 7)
    )  # fmt: skip
    assert len(found.cores) == 3
    assert found.quota is None


def test_where_the_kernel_says_nothing_every_processor_is_a_core_of_one_node(tmp_path):
    assert read_machine([3, 1], tmp_path) == Machine((Processor(0, 1, 1), Processor(0, 3, 3)))


def test_the_quota_of_the_control_group_is_read(tmp_path):
    write(tmp_path, "proc/self/cgroup", "0::/pod\n")
    write(tmp_path, "sys/fs/cgroup/pod/cpu.max", "150000 100000\n")

    assert read_machine([0], tmp_path).quota == 1.5


def test_few_workers_are_named_one_by_one():
    assert describe([("a", p) for p in shares(machine(cores=4), 2)]) == (
        "worker 0 on cores 0-1, 2 threads; worker 1 on cores 2-3, 2 threads"
    )
    assert describe([("a", Placement((0,), 1, True)), ("b", Placement((0,), 1, True))]) == (
        "worker 0 on a on core 0, 1 thread; worker 1 on b on core 0, 1 thread"
    )


def test_many_workers_are_told_by_machine():
    placed = [(host, share) for host in ("a", "b") for share in shares(machine(cores=8), 6)]

    assert describe(placed) == (
        "a: workers 0-5 on 1-2 processors each, 1-2 threads; b: workers 6-11 on 1-2 processors each, 1-2 threads"
    )


@given(st.sets(st.integers(0, 300)))
def test_lists_of_processors_come_back_as_they_were(given_numbers):
    assert parse_cpu_list(format_cpu_list(sorted(given_numbers))) == sorted(given_numbers)


@pytest.mark.parametrize("text", ["", "a", "1-", "1,,2", "-1"])
def test_what_is_no_list_of_processors_is_empty(text):
    assert parse_cpu_list(text) == []
