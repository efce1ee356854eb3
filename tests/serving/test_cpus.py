"""Cores that the service may use."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.cpus import threads_of_sessions, usable_cores

CORES = len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("quota", "cores"), [("max", CORES), ("50000", 1), ("100000", 1), ("150000", 1), ("100000000", CORES)]
)
def test_a_quota_is_rounded_down_to_cores_that_there_are(tmp_path, quota, cores):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/cgroup").write_text("0::/pod\n")
    (tmp_path / "sys/fs/cgroup/pod").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/pod/cpu.max").write_text(f"{quota} 100000\n")

    assert usable_cores(tmp_path) == cores


@given(cores=st.integers(1, 256), sessions=st.integers(1, 64))
def test_sessions_have_no_more_threads_than_there_are_cores(cores, sessions):
    threads = threads_of_sessions(cores, sessions)

    assert threads >= 1
    assert threads * sessions <= max(cores, sessions)
