"""The state of the service: loading, ready, draining; and the threads in which its work runs."""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, Literal, TypeAlias, TypeVar

from serving.engine import Engine
from serving.errors import NotReadyError
from serving.metrics import Metrics
from serving.settings import ServingSettings
from serving.tensor_engine import TensorEngine

logger = logging.getLogger(__name__)

Status = Literal["loading", "ready", "draining"]
# After the drain's end: for the answers that say so to leave.
_LAST_WORDS_S = 1.0

AnyEngine: TypeAlias = Engine | TensorEngine
T = TypeVar("T")


class Service:
    """One served model, the requests in flight, and what is measured of them.

    All methods but those of the engine are called on the event loop.

    Attributes:
        settings: As read at start.
        metrics: What is measured.
        status: "loading" until the golden samples agreed, "draining" from the signal to stop on.
        engine: None while loading.
    """

    def __init__(self, settings: ServingSettings, metrics: Metrics, open_engine: Callable[[], AnyEngine]) -> None:
        """Start nothing.

        Args:
            settings: Limits and times.
            metrics: Where to record.
            open_engine: Fetches the bundle, opens its sessions and replays its golden samples; called by `load` in a
                thread of its own.
        """
        self.settings, self.metrics = settings, metrics
        self.status: Status = "loading"
        self.engine: AnyEngine | None = None
        self._open_engine = open_engine
        self._active: set[asyncio.Task[Any]] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._work: set[Future[Any]] = set()
        self._cut = False
        # As many as there are cores: more would only take the cores from each other.
        self._pool = ThreadPoolExecutor(_cores(), thread_name_prefix="inference")
        metrics.set_ready(False)
        metrics.set_in_flight(0)

    @property
    def labels(self) -> dict[str, str]:
        """Metric labels `model` and `version`; empty while loading and where there is none."""
        engine = self.engine
        return {"model": engine.name if engine else "", "version": (engine.version or "") if engine else ""}

    @property
    def is_cut(self) -> bool:
        """Whether the drain is over and what is still active is being ended."""
        return self._cut

    @property
    def is_busy(self) -> bool:
        """Whether a thread may still be inside native code, which nothing can interrupt."""
        return any(work.running() for work in list(self._work))

    async def load(self) -> None:
        """Open the engine, warm it up, and become ready.

        Raises:
            TfpipeError: The model cannot be served.
        """
        self.engine = await self._tracked(_in_daemon_thread(self._load))
        if self.status == "loading":
            self.status = "ready"
            self.metrics.set_ready(True)
            logger.info("ready", extra={"fields": self.describe()[0]})

    def describe(self) -> list[dict[str, Any]]:
        """The models served, for people and probes."""
        engine = self.engine
        if engine is None:
            return []
        return [
            {
                "name": engine.name,
                "version": engine.version,
                "variant": engine.variant,
                "precision": engine.precision,
                "provider": engine.provider,
                "arithmetic": engine.arithmetic,
                "why": engine.why,
                "passed_over": list(engine.passed_over),
                "bundle": engine.bundle_id,
                "task": engine.task,
            }
        ]

    def require_engine(self) -> AnyEngine:
        """The engine, if requests are taken.

        Raises:
            NotReadyError: Loading or draining.
        """
        if self.engine is None or self.status != "ready":
            raise NotReadyError(f"service: expected it to be ready, but it is {self.status}.", status=self.status)
        return self.engine

    @contextmanager
    def admitted(self) -> Iterator[None]:
        """Count the current task as a request in flight, which a drain waits for."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("admitted() must be entered inside a task.")
        self._active.add(task)
        self._idle.clear()
        self.metrics.set_in_flight(len(self._active))
        try:
            yield
        finally:
            self._active.discard(task)
            self.metrics.set_in_flight(len(self._active))
            if not self._active:
                self._idle.set()

    async def run(self, work: Callable[[], T]) -> T:
        """Run blocking work in one of the inference threads; a waiter that is cancelled leaves work that has begun."""
        return await self._tracked(self._pool.submit(work))

    async def drain(self) -> None:
        """Take no more requests, wait for those in flight as long as DRAIN_MS, then answer the rest with 503."""
        self.status = "draining"
        self.metrics.set_ready(False)
        logger.info("draining", extra={"fields": {"in_flight": len(self._active)}})
        try:
            await asyncio.wait_for(self._idle.wait(), self.settings.drain_ms / 1000)
        except TimeoutError:
            await self.cut()

    async def cut(self) -> None:
        """End every request that is still in flight."""
        active = list(self._active)
        self._cut = bool(active)
        logger.warning("cut", extra={"fields": {"in_flight": len(active)}})
        for task in active:
            task.cancel()
        if active:
            await asyncio.wait(active, timeout=_LAST_WORDS_S)

    def close(self) -> None:
        """Take no more work; what has begun ends on its own."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    async def _tracked(self, work: "Future[T]") -> T:
        self._work.add(work)
        work.add_done_callback(self._work.discard)
        return await asyncio.wrap_future(work)

    def _load(self) -> AnyEngine:
        started_s = time.perf_counter()
        engine = self._open_engine()
        engine.warm_up()
        self.metrics.record_load(
            model=engine.name,
            version=engine.version or "",
            seconds=time.perf_counter() - started_s,
            golden_max_abs_diff=engine.golden_max_abs_diff,
        )
        return engine


def _cores() -> int:
    # A container may be given fewer than the machine has; only Linux can tell.
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _in_daemon_thread(work: Callable[[], T]) -> "Future[T]":
    # Not a pool's thread, for which the interpreter waits when it exits: a download may retry for a minute.
    future: Future[T] = Future()

    def run() -> None:
        future.set_running_or_notify_cancel()
        try:
            future.set_result(work())
        # The outermost edge of a thread: whoever waits for the future is told.
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="load", daemon=True).start()
    return future
