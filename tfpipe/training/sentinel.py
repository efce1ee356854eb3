"""Proof that the workers are in step: the same weights, and shares of an epoch that make it up."""

import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tfpipe.core.errors import TrainingError
from tfpipe.distributed import World
from tfpipe.training.observers import Observer, StepRecord


class DesyncSentinel(Observer):
    """Compares the weights of all workers, and ends the run where they differ.

    Each worker hashes its variables (CRC-32, ISO 3309), and one allreduce of the hashes' extremes tells whether all
    agree; nothing else is sent while they do.

    Args:
        variables: Gives the Keras variables that must be equal on every worker.
        world: The workers.
        every_steps: Updates between two checks; the end of an epoch is one too.
    """

    def __init__(self, variables: Callable[[], Sequence[Any]], world: World, *, every_steps: int) -> None:
        self._variables, self._world, self._every = variables, world, every_steps
        self._checked = self._step = 0

    def on_step(self, record: StepRecord) -> None:
        self._step = record.step
        if record.step % self._every == 0:
            self.check()

    def figures(self) -> dict[str, float]:
        if self._checked != self._step:
            self.check()
        return {}

    def check(self) -> None:
        """Compare now.

        Raises:
            TrainingError: On every worker: names the first variable that differs, and the workers.
        """
        self._checked = self._step
        if self._world.size == 1:
            return
        variables = self._variables()
        hashes = np.array([zlib.crc32(variable.numpy().tobytes()) for variable in variables], np.int64)
        # max(h) and max(-h) = -min(h): equal extremes, equal hashes.
        highest, lowest = np.split(self._world.allreduce_max(np.concatenate([hashes, -hashes])), 2)
        differing = np.flatnonzero(highest != -lowest)
        if len(differing):
            first = int(differing[0])
            of_ranks = [int(everybodys[first]) for everybodys in self._world.gather_objects(hashes)]
            raise TrainingError(
                f"step {self._step}: expected the same weights on every worker, but {_odd_ones(of_ranks)} in "
                f"{variables[first].path!r} and {len(differing) - 1} more of {len(variables)} variables. Training has "
                "stopped, as the workers no longer train one model; the last checkpoint is from before. Suspects: a "
                "callback or model that changes weights on some workers only, mixed library versions, broken memory."
            )


def _odd_ones(hashes: Sequence[int]) -> str:
    """Who differs from whom, by majority; without one, all are named."""
    (common, count), *_ = Counter(hashes).most_common()
    if 2 * count <= len(hashes):
        return "all workers differ from one another" if count == 1 else f"workers fall into groups {_groups(hashes)}"
    odd = [str(rank) for rank, value in enumerate(hashes) if value != common]
    return f"worker{'s' if len(odd) > 1 else ''} {', '.join(odd)} of {len(hashes)} differ{'' if len(odd) > 1 else 's'}"


def _groups(hashes: Sequence[int]) -> str:
    members: dict[int, list[int]] = {}
    for rank, value in enumerate(hashes):
        members.setdefault(value, []).append(rank)
    return " and ".join(str(ranks) for ranks in members.values())


def check_shares(indices: np.ndarray, num_steps: int, expected: np.ndarray, world: World, *, epoch: int) -> None:
    """Make sure that all workers take as many steps, and that their shares together are the samples expected.

    Args:
        indices: (m,) samples that this worker takes in what is left of the epoch; padding left out.
        num_steps: Steps in which it takes them.
        expected: (n,) samples that all workers together must take.
        world: The workers.
        epoch: From 0, for the message.

    Raises:
        TrainingError: On every worker, before the epoch's first step, which would hang or lose samples.
    """
    if world.size == 1:
        return
    mine = (num_steps, len(expected), zlib.crc32(expected.tobytes()), len(indices), int(np.sum(indices)))
    everyone = world.gather_objects(mine)
    for position, what in enumerate(("steps", "samples", "order of samples")):
        values = [shares[position] for shares in everyone]
        if len(set(values)) > 1:
            told = "" if position == 2 else f": {values} by rank"
            raise TrainingError(f"epoch {epoch + 1}: expected the same {what} on every worker, received others{told}.")
    taken = sum(shares[3] for shares in everyone)
    if taken != len(expected) or sum(shares[4] for shares in everyone) != int(np.sum(expected)):
        raise TrainingError(
            f"epoch {epoch + 1}: expected the workers' shares to make up its {len(expected)} samples once, "
            f"received {taken}: {[shares[3] for shares in everyone]} by rank."
        )
