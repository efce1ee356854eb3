"""Who the other workers are, to name the one that is lost."""

import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from tfpipe.distributed import World

# A process that was killed is seen to be gone a moment after its connections are.
_PATIENCE_S = 2.0
_POLL_S = 0.1


@dataclass(frozen=True)
class Peer:
    """One worker.

    Attributes:
        rank: Its number.
        host: Name of its machine.
        pid: Its process there.
        started: When that began, so that a later process of the same number is not taken for it.
    """

    rank: int
    host: str
    pid: int
    started: float


def introduce(world: World) -> list[Peer]:
    """All workers, known to all; to be called on every worker."""
    process = psutil.Process()
    return world.gather_objects(Peer(world.rank, socket.gethostname(), os.getpid(), process.create_time()))


def describe_lost(peers: Sequence[Peer]) -> str:
    """Which worker is gone, or stopped, as far as can be seen from this machine; for a sentence."""
    deadline_s = time.monotonic() + _PATIENCE_S
    here = [peer for peer in peers if peer.host == socket.gethostname()]
    while True:
        states = [(peer, _state(peer)) for peer in here]
        told = [f"worker {peer.rank} (process {peer.pid} on {peer.host}) {state}" for peer, state in states if state]
        if told or time.monotonic() > deadline_s or not here:
            break
        time.sleep(_POLL_S)
    elsewhere = sorted({peer.host for peer in peers} - {socket.gethostname()})
    if told:
        return " and ".join(told)
    return f"a worker on {' or '.join(elsewhere)} was lost" if elsewhere else "a worker was lost"


def _state(peer: Peer) -> str | None:
    """What is wrong with a worker of this machine; None where it runs."""
    try:
        process = psutil.Process(peer.pid)
        if process.create_time() != peer.started or process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return "has ended"
        return "is stopped" if process.status() == psutil.STATUS_STOPPED else None
    except psutil.NoSuchProcess:
        return "has ended"
