"""An engine asked as the service asks it, without a socket."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from serving.batching import Limits, Reason
from serving.deployment import Deployment, Outcome
from serving.engine import Input
from serving.routes.predict import answer_of
from serving.runs import AnyEngine
from serving.slots import Slots


class Batches(list[int]):
    """Rows of each batch, in order."""

    def batch(self, rows: int, reason: Reason) -> None:
        """See `serving.batcher.Observer`."""
        self.append(rows)


def ask(
    engine: AnyEngine,
    inputs: Sequence[Input],
    *,
    max_batch_size: int = 4,
    deadline_s: float = float("inf"),
    features: bool = False,
) -> tuple[list[dict[str, Any] | Exception], list[int]]:
    """Answers to the inputs of one request, and the rows of each batch."""
    batches = Batches()
    outcome = outcome_of(
        engine, inputs, batches, max_batch_size=max_batch_size, deadline_s=deadline_s, features=features
    )
    return [answer_of(row) for row in outcome.rows], list(batches)


def outcome_of(
    engine: AnyEngine,
    inputs: Sequence[Input],
    batches: Batches,
    *,
    max_batch_size: int = 4,
    deadline_s: float = float("inf"),
    features: bool = False,
    has_cores: bool = True,
) -> Outcome:
    """What came of the inputs of one request; where there are no other cores, no thread may prepare them."""

    async def infer() -> Outcome:
        limits = Limits(max_batch_size, max_rows=1000, max_bytes=2**30)
        with ThreadPoolExecutor(2) as pool, ThreadPoolExecutor(1) as closed:
            closed.shutdown()
            deployment = Deployment(
                engine,
                limits,
                slots=Slots(1),
                preparing=pool if has_cores else closed,
                running=pool,
                has_cores=has_cores,
                observer=batches,
            )
            return await deployment.infer(inputs, deadline_s=deadline_s, features=features)

    return asyncio.run(infer())


def answers(engine: AnyEngine, inputs: Sequence[Input], *, features: bool = False) -> list[Any]:
    """Answers to the inputs of one request."""
    return ask(engine, inputs, features=features)[0]
