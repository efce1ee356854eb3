"""Cores that this process may use, how sessions share them, and how threads take turns on them."""

import contextlib
import os
from pathlib import Path

from tfpipe.cgroups import ROOT
from tfpipe.placement import read_machine

# How this process was started.
_IS_USUAL = hasattr(os, "SCHED_BATCH") and os.sched_getscheduler(0) == os.SCHED_OTHER


def usable_cores(root: Path = ROOT) -> int:
    """Cores that this process may keep busy: those it may run on, as far as its CPU quota goes.

    Hyper-threads of one core share its arithmetic unit and count once. A quota is rounded down: with one thread more
    than it pays for, the kernel stops all of them for a part of every period, in the middle of a batch. What is left
    over goes to the event loop and to decoding.

    Args:
        root: What stands for the root of the file system; see `tfpipe.cgroups`.

    Returns:
        At least 1.
    """
    # Only Linux can tell which it may run on.
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    machine = read_machine(allowed, root)
    cores = len(machine.cores)
    return cores if machine.quota is None else max(1, min(cores, int(machine.quota)))


def threads_of_sessions(cores: int, sessions: int) -> int:
    """Threads inside a run of each session, so that all of them together have a core a thread.

    Args:
        cores: That there are.
        sessions: That run side by side.

    Returns:
        At least 1.
    """
    return max(1, cores // sessions)


def wait_for_turn(waits: bool) -> None:
    """Say whether this thread, once it has something to do, waits until those that compute have had their share.

    A thread begins as the one was that made it. Nothing is done where the process was started with a policy that
    somebody chose, nor where there is none such: only Linux has it. Source: sched(7), SCHED_BATCH.
    """
    if _IS_USUAL:
        # A sandbox may forbid it.
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, os.SCHED_BATCH if waits else os.SCHED_OTHER, os.sched_param(0))
