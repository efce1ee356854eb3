"""Shadow traffic: a version that is asked what another has answered, and whose answers are compared and dropped."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from serving.engine import Answered
from tfpipe.core.errors import TfpipeError

if TYPE_CHECKING:
    from serving.deployment import Deployment

Comparison = Literal["same", "different", "failed", "dropped"]

# Of probabilities nothing is asked: versions differ in them by nature. What named tensors hold is compared as the gate
# compares what a quantised model gives.
_TOLERANCE = 1e-2
_PATIENCE_S = 5.0
_AT_ONCE = 1


class Shadow:
    """Asks a version the same as another; on the event loop.

    It never delays an answer: it begins after that is there, one request at a time, and only while nothing waits for
    the version that answers. What comes in between is dropped, and counted as that.

    Args:
        deployment: Is asked.
        observe: Told what came of each request.
    """

    def __init__(self, deployment: "Deployment", observe: Callable[[Comparison], None]) -> None:
        self.deployment = deployment
        self._observe = observe
        self._tasks: set[asyncio.Task[None]] = set()

    def offer(self, primary: "Deployment", question: Any, answered: Any) -> None:
        """Ask the same, if there is room.

        Args:
            primary: Has answered.
            question: Inputs, or named tensors.
            answered: What came of them there.
        """
        if len(self._tasks) >= _AT_ONCE or primary.batcher.queue.rows:
            self._observe("dropped")
            return
        task = asyncio.get_running_loop().create_task(self._compare(question, answered))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _compare(self, question: Any, answered: Any) -> None:
        deadline_s = time.monotonic() + _PATIENCE_S
        try:
            if isinstance(question, Mapping):
                tensors, _ = await self.deployment.infer_tensors(question, list(answered[0]), deadline_s=deadline_s)
                same = _are_close(tensors, answered[0])
            else:
                rows = (await self.deployment.infer(question, deadline_s=deadline_s)).rows
                same = _decisions(rows) == _decisions(answered.rows)
        # Whatever it is: nobody but the counts hears of it.
        except TfpipeError:
            self._observe("failed")
        else:
            self._observe("same" if same else "different")


def _decisions(rows: Sequence[Answered | Exception]) -> list[Any]:
    return [type(row) if isinstance(row, Exception) else decision_of(row.answer()) for row in rows]


def decision_of(answer: Mapping[str, Any]) -> Any:
    """What an answer says, without how sure it is: a label, a set of labels, or entities with their places."""
    if "label" in answer:
        return answer["label"]
    if "labels" in answer:
        return frozenset(one["label"] for one in answer["labels"])
    return [(one["label"], one["start"], one["end"]) for one in answer["entities"]]


def _are_close(tensors: Mapping[str, Any], others: Mapping[str, Any]) -> bool:
    return all(
        tensors[name].shape == array.shape and np.allclose(tensors[name], array, rtol=_TOLERANCE, atol=_TOLERANCE)
        for name, array in others.items()
    )
