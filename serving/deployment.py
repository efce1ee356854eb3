"""One loaded version: its engine, its batches, and the way of a request through both."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Hashable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from serving.answer_cache import AnswerCache, question_of
from serving.batcher import Batcher, Done, Observer
from serving.batching import Limits, Reason
from serving.breaker import Breaker
from serving.engine import Answered, Engine, Input, Row
from serving.gpu_memory import batch_bytes
from serving.guard import guarded
from serving.runs import AnyEngine, Rows, row_runs, tensor_runs
from serving.shadow import Shadow
from serving.slots import Slots
from serving.tensor_engine import TensorEngine
from tfpipe.core.errors import TfpipeError
from tfpipe.core.signature import Array
from tfpipe.inference.images import is_sample
from tfpipe.inference.interface import Prepared

# Arrays and texts so small are prepared in the event loop: a thread would cost more. Files never are: a few bytes may
# hold a picture that takes a second.
_SMALL_BYTES, _SMALL_CHARS = 16 * 1024, 512
# Larger pixels would keep those from their answers that are in the same batch.
_MOST_BYTES_IN_BATCH = 1024 * 1024
# Of files, only what is to be in one of the next batches waits as pixels: they are many times what was admitted.
_BATCHES_OF_PIXELS = 2
# A request has so many of its batches in the queue at a time: one with many rows must not keep all others waiting.
_BLOCKS_AT_ONCE = 2


@dataclass(slots=True)
class Outcome:
    """What came of the inputs of one request.

    Attributes:
        rows: For each input, in order, what was answered or the error that it met.
        stage_s: Seconds by stage, of those that it went through: "decode", "preprocess", "queue" and "run".
    """

    rows: list[Answered | Exception]
    stage_s: dict[str, float] = field(default_factory=dict)

    def all_answered(self) -> list[Answered]:
        """The rows, for protocols that answer all of them or none.

        Raises:
            Exception: The first error that a row met; of several rows it says which.
        """
        answered: list[Answered] = []
        for index, row in enumerate(self.rows):
            if isinstance(row, Exception):
                if len(self.rows) > 1:
                    # In place, as each class is made in its own way.
                    row.args = (f"row {index}: {row}",)
                raise row
            answered.append(row)
        return answered


class Counts:
    """What a version has run since it was loaded, passed on to the service's metrics.

    Attributes:
        batches: Runs of the model.
        rows: In all of them.
        last_s: `time.time()` of the newest; 0 before the first.
    """

    def __init__(self, observer: Observer) -> None:
        self.batches = self.rows = 0
        self.last_s = 0.0
        self._observer = observer

    def batch(self, rows: int, reason: Reason) -> None:
        """See `serving.batcher.Observer`."""
        self.batches += 1
        self.rows += rows
        self.last_s = time.time()
        self._observer.batch(rows, reason)


class Deployment:
    """A version that answers; used on the event loop.

    Attributes:
        engine: What prepares inputs and runs rows.
        batcher: What forms batches.
        batch_bytes: Of the inputs and outputs of its largest batch.
        counts: What it has run.
        breaker: Whether it is left alone, as it fails again and again.
        shadow: What is asked the same; None for nothing.
        labels: Of its metrics: `model` and `version`.

    Args:
        engine: Opened, proved and warm.
        limits: Of batches and of what waits.
        slots: Shared with other versions.
        preparing: Where inputs are prepared that are not small.
        running: Where batches run that are not quick.
        has_cores: Whether there is more than one core. Where there is one, a thread that prepares pixels beside the
            model gains nothing, and they are prepared in their batch; so are those of files, which a thread decodes.
        observer: Told of batches.
        cache: Of answers, shared with other versions; None keeps none.
    """

    def __init__(
        self,
        engine: AnyEngine,
        limits: Limits,
        *,
        slots: Slots,
        preparing: Executor,
        running: Executor,
        has_cores: bool = True,
        observer: Observer,
        cache: AnswerCache[Answered] | None = None,
    ) -> None:
        self.engine = engine
        self.breaker = Breaker()
        self.shadow: Shadow | None = None
        self.labels = {"model": engine.name, "version": engine.version or ""}
        self._preparing, self._cache = preparing, cache
        self._leave_bytes = 0 if has_cores else _MOST_BYTES_IN_BATCH
        self._identity = f"{engine.bundle_id} {engine.variant} {engine.provider} {engine.arithmetic}"
        self.batch_bytes = batch_bytes(
            [*engine.inputs, *engine.outputs], rows=limits.max_batch_size, length=_longest(engine)
        )
        self._max_batch_size = limits.max_batch_size
        run: Callable[[Sequence[Any]], Sequence[Any]] = (
            tensor_runs(engine) if isinstance(engine, TensorEngine) else row_runs(engine)
        )
        self.counts = Counts(observer)
        sessions = engine.sessions
        self.batcher: Batcher[Any, Any] = Batcher(
            [run] * (sessions.number if sessions else 1),
            limits,
            slots=slots,
            executor=running,
            observer=self.counts,
            has_cores=has_cores,
            may_run_here=sessions is None or sessions.isolation == "inline",
        )

    @property
    def name(self) -> str:
        """Of the model."""
        return self.engine.name

    @property
    def version(self) -> str | None:
        """Registered version; None for a model that is not registered."""
        return self.engine.version

    @property
    def is_up(self) -> bool:
        """Whether a batch can run now; see `Sessions.is_up`."""
        sessions = self.engine.sessions
        return sessions is None or sessions.is_up

    @property
    def is_away(self) -> bool:
        """Whether it will answer nothing for a while; see `Sessions.is_away`."""
        sessions = self.engine.sessions
        return sessions is not None and sessions.is_away

    @property
    def is_plain(self) -> bool:
        """Whether it can answer at once, and nothing but its answer is wanted of it."""
        return self.batcher.is_quick and self.shadow is None and self._cache is None and not self.breaker.is_open

    def run_now(self, rows: Sequence[list[Array]]) -> Sequence[list[Row | Exception]] | None:
        """Answer rows that clients made, in this turn of the event loop.

        Args:
            rows: Of each request, for the same bucket; in all no more than `Batcher.quick_rows`, or of a single one.

        Returns:
            For each request what its rows met; None where it cannot run at once.

        Raises:
            Exception: What the session raised.
        """
        contents = [Rows(some, features=False, are_own=True) for some in rows]
        return self.batcher.run_now(contents, rows=sum([len(some) for some in rows]))

    def check_room(self, *, deadline_s: float) -> None:
        """Refuse a request that would be refused whatever it holds.

        Args:
            deadline_s: See `infer`.

        Raises:
            QueueFullError: See `infer`.
            DeadlineError: Likewise.
        """
        # What is known already is answered without room.
        if self._cache is None:
            self.batcher.room.check(1, 0, now_s=time.monotonic(), deadline_s=deadline_s)

    @guarded
    async def infer(self, inputs: Sequence[Input], *, deadline_s: float, features: bool = False) -> Outcome:
        """Answer inputs, each on its own: one that fails leaves the others be.

        Args:
            inputs: At least one.
            deadline_s: `time.monotonic()` after which nobody waits for the answer.
            features: Whether each answer is to hold the vector before the model's head.

        Raises:
            QueueFullError: Too much waits already.
            DeadlineError: The answer cannot be there in time.
            NotReadyError: The version is being unloaded.
        """
        if self._cache is None:
            return await self._infer(inputs, deadline_s, features)
        return await self._infer_unknown(self._cache, inputs, deadline_s, features)

    async def _infer_unknown(
        self, cache: AnswerCache[Answered], inputs: Sequence[Input], deadline_s: float, features: bool
    ) -> Outcome:
        """Answer from the cache what is there, and keep what is not."""
        identity = f"{self._identity} {features}"
        questions = [None if isinstance(one, Exception) else question_of(identity, one) for one in inputs]
        known = [None if question is None else cache.get(question) for question in questions]
        unknown = [position for position, answer in enumerate(known) if answer is None]
        outcome = Outcome(rows=[])
        if unknown:
            outcome = await self._infer([inputs[position] for position in unknown], deadline_s, features)
        rows: list[Answered | Exception | None] = [*known]
        for position, answered in zip(unknown, outcome.rows, strict=True):
            rows[position], question = answered, questions[position]
            if isinstance(answered, Answered) and question is not None:
                kept = answered.alone()
                cache.put(question, kept, size_bytes=kept.nbytes)
        outcome.rows = [row for row in rows if row is not None]
        return outcome

    async def _infer(self, inputs: Sequence[Input], deadline_s: float, features: bool) -> Outcome:
        engine = self.engine
        if isinstance(engine, TensorEngine):
            raise TypeError("expected an engine of files or texts, received one of named tensors.")
        size = sum([_size(given) for given in inputs])
        room = self.batcher.room
        room.admit(len(inputs), size, now_s=time.monotonic(), deadline_s=deadline_s)
        try:
            outcome = Outcome([])
            if len(inputs) == 1 and _is_small(inputs[0]):
                prepared = [_met(lambda: engine.prepare(inputs[0], outcome.stage_s))]
            elif all(_is_left(one, self._leave_bytes) for one in inputs):
                prepare = partial(engine.prepare, stage_s=outcome.stage_s, leave_bytes=self._leave_bytes)
                prepared = [_met(partial(prepare, one)) for one in inputs]
            else:
                prepared = await self._prepare(engine, inputs, outcome)
            are_own = any(isinstance(one, np.ndarray) and not is_sample(one) for one in inputs)
            await self._run(engine, prepared, outcome, deadline_s, features=features, are_own=are_own)
        finally:
            room.leave(len(inputs), size)
        return outcome

    @guarded
    async def infer_tensors(
        self, feeds: Mapping[str, Array], outputs: Sequence[str] | None, *, deadline_s: float
    ) -> tuple[dict[str, Array], dict[str, float]]:
        """Answer named arrays.

        Args:
            feeds: Array by input name.
            outputs: Names wanted; None: all.
            deadline_s: See `infer`.

        Returns:
            Array by output name, and seconds by stage.

        Raises:
            InvalidRequestError: Names, dtypes or shapes that the model does not take.
            QueueFullError: See `infer`, as for the others.
        """
        engine = self.engine
        if not isinstance(engine, TensorEngine):
            raise TypeError("expected an engine of named tensors, received another.")
        engine.check(feeds, outputs or ())
        rows = next(iter(feeds.values())).shape[0] if engine.is_batchable else 1
        size = sum(array.nbytes for array in feeds.values())
        # What cannot be batched is in a bucket of its own.
        shapes = tuple((name, feeds[name].shape[1:]) for name in sorted(feeds))
        bucket: Hashable = shapes if engine.is_batchable else object()
        room = self.batcher.room
        room.admit(rows, size, now_s=time.monotonic(), deadline_s=deadline_s)
        try:
            done = await self.batcher.run(feeds, rows=max(rows, 1), bucket=bucket, deadline_s=deadline_s)
        finally:
            room.leave(rows, size)
        if isinstance(done.result, Exception):
            raise done.result
        wanted = outputs or [spec.name for spec in engine.outputs]
        return {name: done.result[name] for name in wanted}, {"queue": done.queue_s, "run": done.run_s}

    async def close(self) -> None:
        """Take no more requests, wait for those that are here, and end the engine's processes."""
        await self.batcher.close()
        self.engine.close()

    async def _prepare(self, engine: Engine, inputs: Sequence[Input], outcome: Outcome) -> list[Prepared | Exception]:
        is_next = self.batcher.room.rows <= _BATCHES_OF_PIXELS * self._max_batch_size
        leave_bytes = self._leave_bytes if is_next else 0

        def work(given: Input) -> tuple[Prepared | Exception, dict[str, float]]:
            stage_s: dict[str, float] = {}
            return _met(lambda: engine.prepare(given, stage_s, leave_bytes=leave_bytes)), stage_s

        loop = asyncio.get_running_loop()
        # One thread each: decoding runs beside the model.
        working = [loop.run_in_executor(self._preparing, work, one) for one in inputs]
        done = [await working[0]] if len(working) == 1 else await asyncio.gather(*working)
        for _, stage_s in done:
            for stage, seconds in stage_s.items():
                outcome.stage_s[stage] = outcome.stage_s.get(stage, 0.0) + seconds
        return [prepared for prepared, _ in done]

    async def _run(
        self,
        engine: Engine,
        prepared: Sequence[Prepared | Exception],
        outcome: Outcome,
        deadline_s: float,
        *,
        features: bool,
        are_own: bool,
    ) -> None:
        rows = [row for one in prepared if isinstance(one, Prepared) for row in one.rows]
        stage_s = outcome.stage_s

        async def run(length: int, some: list[Array]) -> list[Row | Exception]:
            done: Done[list[Row | Exception]] = await self.batcher.run(
                Rows(some, features, are_own), rows=len(some), bucket=(length, features), deadline_s=deadline_s
            )
            stage_s["queue"] = max(stage_s.get("queue", 0.0), done.queue_s)
            # Of those that failed, nothing is known.
            prepare_s = max([row.prepare_s for row in done.result if isinstance(row, Row)], default=0.0)
            if prepare_s:
                stage_s["preprocess"] = stage_s.get("preprocess", 0.0) + prepare_s
            stage_s["run"] = stage_s.get("run", 0.0) + done.run_s - prepare_s
            return done.result

        if len(rows) == 1:
            answered = iter(await run(engine.bucket_of(rows[0]), rows))
        else:
            results: dict[int, Row | Exception] = {}

            async def run_at(length: int, positions: list[int]) -> None:
                some = await run(length, [rows[position] for position in positions])
                results.update(zip(positions, some, strict=True))

            blocks = _blocks(engine, rows, self._max_batch_size)
            await _in_turns([partial(run_at, *block) for block in blocks], at_once=_BLOCKS_AT_ONCE)
            answered = iter([results[position] for position in range(len(rows))])
        outcome.rows = [
            one if isinstance(one, Exception) else _answered(one, [next(answered) for _ in one.rows])
            for one in prepared
        ]


def _blocks(engine: Engine, rows: Sequence[Array], most: int) -> list[tuple[int, list[int]]]:
    """Positions of the rows that run together, and the length that they are padded to."""
    of_length: dict[int, list[int]] = {}
    for position, row in enumerate(rows):
        of_length.setdefault(engine.bucket_of(row), []).append(position)
    return [
        (length, positions[start : start + most])
        for length, positions in of_length.items()
        for start in range(0, len(positions), most)
    ]


async def _in_turns(runs: Sequence[Callable[[], Coroutine[Any, Any, None]]], *, at_once: int) -> None:
    """Run all, so many at a time; where one fails, the others are given up, and its error is raised."""
    turns = asyncio.Semaphore(at_once)

    async def run(one: Callable[[], Coroutine[Any, Any, None]]) -> None:
        async with turns:
            await one()

    try:
        async with asyncio.TaskGroup() as group:
            for one in runs:
                group.create_task(run(one))
    except* Exception as failed:
        raise failed.exceptions[0] from None


def _met(prepare: Callable[[], Prepared]) -> Prepared | Exception:
    try:
        return prepare()
    except (TfpipeError, MemoryError) as error:
        return error


def _answered(prepared: Prepared, rows: Sequence[Row | Exception]) -> Answered | Exception:
    answered: list[Row] = []
    for row in rows:
        if isinstance(row, Exception):
            return row
        answered.append(row)
    return Answered(prepared, tuple(answered))


def _longest(engine: AnyEngine) -> int:
    # What a bundle of tensors leaves open is not known before it is asked.
    return 1 if isinstance(engine, TensorEngine) else max(engine.lengths, default=1)


def _is_small(given: Input) -> bool:
    if isinstance(given, np.ndarray):
        return given.nbytes <= _SMALL_BYTES
    return isinstance(given, Exception) or (isinstance(given, str) and len(given) <= _SMALL_CHARS)


def _is_left(given: Input, leave_bytes: int) -> bool:
    return isinstance(given, np.ndarray) and is_sample(given) and given.nbytes <= leave_bytes


def _size(given: Input) -> int:
    if isinstance(given, np.ndarray):
        return given.nbytes
    return 0 if isinstance(given, Exception) else len(given)
