"""Naming the worker that is lost."""

import signal
import socket
import subprocess
import sys

import psutil
import pytest

from tfpipe.distributed import World
from tfpipe.training.peers import Peer, describe_lost, introduce


@pytest.fixture
def worker():
    """A process of this machine that runs, as worker 1."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process, Peer(1, socket.gethostname(), process.pid, psutil.Process(process.pid).create_time())
    process.kill()
    process.communicate()


def test_a_worker_that_was_killed_is_named_with_its_process(worker):
    process, peer = worker
    me = introduce(World())

    process.kill()

    assert describe_lost([*me, peer]) == f"worker 1 (process {peer.pid} on {peer.host}) has ended"


def test_a_worker_that_is_stopped_is_named(worker):
    process, peer = worker

    process.send_signal(signal.SIGSTOP)

    assert describe_lost([peer]) == f"worker 1 (process {peer.pid} on {peer.host}) is stopped"


def test_another_process_of_the_same_number_is_not_taken_for_the_worker(worker):
    _, peer = worker

    lost = describe_lost([Peer(2, peer.host, peer.pid, peer.started - 100.0)])

    assert lost == f"worker 2 (process {peer.pid} on {peer.host}) has ended"


def test_of_workers_elsewhere_the_hosts_are_named(worker):
    _, peer = worker

    assert describe_lost([peer, Peer(2, "b", 1, 0.0), Peer(3, "a", 1, 0.0)]) == "a worker on a or b was lost"
    assert describe_lost([peer]) == "a worker was lost"
