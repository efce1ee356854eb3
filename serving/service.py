"""The state of the service: loading, ready, draining; what it has loaded, and the threads in which its work runs."""

import asyncio
import logging
import math
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Literal, TypeVar

from serving.answer_cache import AnswerCache
from serving.batching import Limits
from serving.courtesy import Courtesy
from serving.cpus import threads_of_sessions, usable_cores, wait_for_turn
from serving.deployment import Deployment
from serving.drift import DriftWatch
from serving.engine import Answered
from serving.errors import NotReadyError, RequestError
from serving.feedback import Lately
from serving.gpu_memory import GPU_PROVIDERS, GpuMemory
from serving.metrics import Metrics, ModelReading
from serving.models import Models, Way
from serving.request import Request
from serving.runs import AnyEngine
from serving.sessions import Isolation
from serving.settings import ServingSettings
from serving.slots import Slots
from serving.wanted import Wanted
from serving.watched import WatchedThreads

logger = logging.getLogger(__name__)

Status = Literal["loading", "ready", "draining"]
# After the drain's end: for the answers that say so to leave.
_LAST_WORDS_S = 1.0

# Ways to a version that chance or a key decides, so that versions may be compared by what came by them.
ROUTED = ("champion", "split", "canary")

T = TypeVar("T")


class Service:
    """The models served, the requests in flight, and what is measured of them.

    All methods are called on the event loop.

    Attributes:
        settings: As read at start.
        metrics: What is measured.
        status: "loading" until the golden samples agreed, "draining" from the signal to stop on: what requests meet.
        models: What is loaded.
        grpc_port: Where gRPC is answered, once it is; None: nowhere.
        lately: Answers that feedback may come on.
        courtesy: Told of requests for which there is no room or no time.
    """

    def __init__(
        self,
        settings: ServingSettings,
        metrics: Metrics,
        open_engines: Callable[[], Iterable[AnyEngine]],
        *,
        gpu_memory: GpuMemory | None = None,
    ) -> None:
        """Start nothing.

        Args:
            settings: Limits and times.
            metrics: Where to record.
            open_engines: Fetches each bundle, opens its sessions and replays its golden samples; called by `load` in a
                thread of its own.
            gpu_memory: What is free of the GPU's; None where there is none.
        """
        self.settings, self.metrics = settings, metrics
        self.status: Status = "loading"
        self.models = Models()
        self.grpc_port: int | None = None
        self.lately = Lately(settings.feedback_ttl_s)
        self.courtesy = Courtesy()
        self._open_engines = open_engines
        self._gpu_memory = gpu_memory
        self._cache: AnswerCache[Answered] | None = None
        if settings.cache_bytes:
            self._cache = AnswerCache(settings.cache_bytes)
            metrics.watch_cache(self._cache)
        metrics.watch_queue(self._waiting)
        self._active: set[asyncio.Task[Any]] = set()
        # There while a drain waits.
        self._idle: asyncio.Event | None = None
        self._work: set[Future[Any]] = set()
        self._cut = False
        cores = usable_cores()
        # As many as there are cores: more would only take the cores from each other.
        self._pool = _Tracked(cores, "prepare", self._work)
        self._has_cores = cores > 1
        threads = settings.threads or threads_of_sessions(cores, settings.sessions)
        self._slots = Slots(max(cores // threads, 1))
        # Their own: a batch must not stand behind the files that are to be decoded.
        self._run_timeout_s = settings.run_timeout_ms / 1000
        # A child process watches its own runs, and may be started again in the middle of one.
        self._runners: dict[Isolation, WatchedThreads] = {
            "inline": WatchedThreads("run", timeout_s=self._run_timeout_s),
            "process": WatchedThreads("run", timeout_s=None),
        }
        metrics.watch_processes(self._processes)
        metrics.watch_drift(self.drifts)
        metrics.watch_in_flight(lambda: len(self._active))
        metrics.watch_ready(lambda: self.health == "ready")

    def labels_of(self, deployment: Deployment | None) -> dict[str, str]:
        """Metric labels `model` and `version`; empty where a request came to no model, and there are several."""
        if deployment is None and len(self.models) == 1:
            deployment = next(iter(self.models))
        return {"model": "", "version": ""} if deployment is None else deployment.labels

    @property
    def is_cut(self) -> bool:
        """Whether the drain is over and what is still active is being ended."""
        return self._cut

    @property
    def is_busy(self) -> bool:
        """Whether a thread may still be inside native code, which nothing can interrupt."""
        return any(work.running() for work in list(self._work)) or any(
            runners.is_busy for runners in self._runners.values()
        )

    async def load(self, before_ready: Callable[[], Awaitable[None]] | None = None) -> None:
        """Open the engines, warm them up, and become ready.

        Args:
            before_ready: Awaited once they are there.

        Raises:
            TfpipeError: A model cannot be served.
        """
        loading = in_daemon_thread(self._load)
        self._work.add(loading)
        loading.add_done_callback(self._work.discard)
        for engine in await asyncio.wrap_future(loading):
            self.deploy(engine)
        if before_ready is not None:
            await before_ready()
        if self.status == "loading":
            self.status = "ready"
            for model in self.describe():
                logger.info("ready", extra={"fields": model})

    def deploy(self, engine: AnyEngine) -> Deployment:
        """Let an engine that is warm answer from now on."""
        deployment = self._deployment(engine)
        self.models.put(deployment)
        return deployment

    def describe(self) -> list[dict[str, Any]]:
        """The models served, for people and probes."""
        return [_described(one.engine) | {"aliases": self.models.aliases_of(one)} for one in self.models]

    def drifts(self) -> list[tuple[tuple[str, str], DriftWatch]]:
        """What watches each version that has something to be compared with, by model and version."""
        watched = ((one.name, one.version or "", one.engine.drift) for one in list(self.models))
        return [((name, version), drift) for name, version, drift in watched if drift is not None]

    @property
    def health(self) -> Status:
        """What probes are told: as `status`, but "loading" again where none of the models comes back.

        Others can answer then, and no request should come here.
        """
        # Another thread may ask, for the metrics.
        models = list(self.models)
        is_away = bool(models) and all(one.is_away for one in models)
        return "loading" if self.status == "ready" and is_away else self.status

    @property
    def is_idle(self) -> bool:
        """Whether the service is ready, and no request is in flight."""
        return self.status == "ready" and not self._active

    async def replay_golden(self) -> None:
        """Answer the golden samples of every version again, and record how far the answers lie from training's.

        Raises:
            ExceptionGroup: Those of some versions differ by more than they may, or cannot be answered; the metric of
                these is then infinite.
        """
        failures: list[Exception] = []
        for deployment in list(self.models):
            difference = math.inf
            try:
                difference = await self.run(deployment.engine.replay_golden)
            # Whatever one version does, the others are asked too.
            except Exception as error:
                failures.append(error)
            self.metrics.record_golden(**self.labels_of(deployment), max_abs_diff=difference)
        if failures:
            raise ExceptionGroup("golden samples", failures)

    def find(self, wanted: Wanted, request: Request, *, key: str | None = None) -> Deployment:
        """The version that answers a request, if requests are taken; the request is told of it.

        Args:
            wanted: What it names.
            request: What is to be answered.
            key: Where routing is sticky, requests with the same go the same way.

        Raises:
            NotReadyError: Loading or draining, or the version is left alone as it fails again and again.
            UnknownModelError: No such model, version or alias.
            MemoryError: It runs on a GPU that has no room for its next batch.
        """
        self._require_ready()
        deployment, arm = self.models.find(wanted, key=key)
        if self._gpu_memory is not None and deployment.engine.provider in GPU_PROVIDERS:
            self._gpu_memory.check(deployment.batch_bytes)
        self.metrics.record_routed(**self.labels_of(deployment), arm=arm)
        request.deployment, request.is_routed = deployment, arm in ROUTED
        return deployment

    def find_plain(self, wanted: Wanted) -> tuple[Deployment, Way] | None:
        """The version that answers a request of which nothing else is known, and how it came to it.

        Nothing is counted. None where it cannot answer at once, or more is to be done than that: `find` is for these.

        Args:
            wanted: What it names.
        """
        found = self._only(wanted)
        return found if found is not None and found[0].is_plain else None

    def find_full(self, wanted: Wanted, *, deadline_s: float) -> tuple[Deployment, Way, RequestError] | None:
        """The version that will not answer a request whatever else it holds, how it came to it, and why.

        Nothing is counted. None where it may answer.

        Args:
            wanted: What it names.
            deadline_s: `time.monotonic()` after which nobody waits for the answer.
        """
        found = self._only(wanted)
        if found is None or found[0].breaker.is_open:
            return None
        try:
            found[0].check_room(deadline_s=deadline_s)
        except RequestError as error:
            # Without its traceback, which would hold the frame of the caller, and that the error: a circle for each.
            return *found, error.with_traceback(None)
        return None

    def _only(self, wanted: Wanted) -> tuple[Deployment, Way] | None:
        if self.status != "ready":
            return None
        try:
            found = self.models.only(wanted)
        except RequestError:
            return None
        # Whether a GPU has room must be asked before each batch.
        return None if found is None or found[0].engine.provider in GPU_PROVIDERS else found

    def look_up(self, wanted: Wanted) -> Deployment:
        """The version that a question about a model means: nothing is asked of it, nor counted.

        Raises:
            NotReadyError: Loading or draining.
            UnknownModelError: No such model, version or alias.
        """
        self._require_ready()
        return self.models.find(wanted, admits=False)[0]

    def _require_ready(self) -> None:
        if self.status != "ready":
            raise NotReadyError(f"service: expected it to be ready, but it is {self.status}.", status=self.status)

    def enter(self) -> "asyncio.Task[Any]":
        """Count the current task as a request in flight, which a drain waits for; it must `leave`."""
        # No context manager, as each around a request costs as much as a small model.
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("enter() must be called inside a task.")
        self._active.add(task)
        return task

    def leave(self, task: "asyncio.Task[Any]") -> None:
        """Count a task no more."""
        self._active.discard(task)
        if not self._active and self._idle is not None:
            self._idle.set()

    async def settled(self) -> None:
        """Wait until every request that is in flight at present has ended."""
        others = self._active - {asyncio.current_task()}
        if others:
            await asyncio.wait(others)

    async def run(self, work: Callable[[], T]) -> T:
        """Run blocking work in one of the inference threads; a waiter that is cancelled leaves work that has begun."""
        return await asyncio.wrap_future(self._pool.submit(work))

    async def drain(self) -> None:
        """Take no more requests, wait for those in flight as long as DRAIN_MS, then answer the rest with 503."""
        self.status = "draining"
        logger.info("draining", extra={"fields": {"in_flight": len(self._active)}})
        self._idle = self._idle or asyncio.Event()
        if not self._active:
            return
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
        for pool in (self._pool, *self._runners.values()):
            pool.shutdown(wait=False, cancel_futures=True)
        for deployment in self.models:
            deployment.engine.close()

    def _load(self) -> list[AnyEngine]:
        engines: list[AnyEngine] = []
        try:
            self._load_into(engines)
        except BaseException:
            for engine in engines:
                engine.close()
            raise
        return engines

    def _load_into(self, engines: list[AnyEngine]) -> None:
        started_s = time.perf_counter()
        for engine in self._open_engines():
            engines.append(engine)
            engine.warm_up()
            self.metrics.record_load(
                model=engine.name,
                version=engine.version or "",
                seconds=time.perf_counter() - started_s,
                golden_max_abs_diff=engine.golden_max_abs_diff,
            )
            started_s = time.perf_counter()

    def _processes(self) -> Iterator[ModelReading]:
        for deployment in self.models:
            sessions = deployment.engine.sessions
            if sessions is not None and sessions.children:
                known = [one.memory_bytes for one in sessions.children]
                yield ModelReading(
                    deployment.name,
                    deployment.version or "",
                    sum(one or 0 for one in known) if any(known) else None,
                    sum(one.restarts for one in sessions.children),
                    sum(one.is_open for one in sessions.children),
                )

    def _deployment(self, engine: AnyEngine) -> Deployment:
        settings = self.settings
        limits = Limits(
            settings.max_batch_size,
            settings.max_queue_rows,
            settings.max_queue_bytes,
            settings.max_queue_delay_ms / 1000,
        )
        sessions = engine.sessions
        if sessions is not None:
            sessions.limit_runs(self._run_timeout_s)
        running = self._runners[sessions.isolation if sessions is not None else "inline"]
        return Deployment(
            engine,
            limits,
            slots=self._slots,
            preparing=self._pool,
            running=running,
            has_cores=self._has_cores,
            observer=self.metrics,
            cache=self._cache,
        )

    def _waiting(self) -> tuple[int, float]:
        """Rows that wait for a session, and for how many seconds the oldest has."""
        queues = [deployment.batcher.queue for deployment in list(self.models)]
        arrived_s = [oldest_s for queue in queues if (oldest_s := queue.oldest_s()) is not None]
        return sum(queue.rows for queue in queues), time.monotonic() - min(arrived_s) if arrived_s else 0.0


class _Tracked(ThreadPoolExecutor):
    """A pool that tells which work is under way."""

    def __init__(self, threads: int, name: str, under_way: "set[Future[Any]]") -> None:
        super().__init__(threads, thread_name_prefix=name, initializer=wait_for_turn, initargs=(False,))
        self._under_way = under_way

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        work = super().submit(fn, *args, **kwargs)
        self._under_way.add(work)
        work.add_done_callback(self._under_way.discard)
        return work


def _described(engine: AnyEngine) -> dict[str, Any]:
    return {
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
        "takes": engine.takes,
    }


def in_daemon_thread(work: Callable[[], T]) -> "Future[T]":
    """Run work in a thread of its own, for which the process does not wait when it ends."""
    # Not a pool's thread, for which the interpreter waits when it exits: a download may retry for a minute.
    future: Future[T] = Future()

    def run() -> None:
        wait_for_turn(False)
        future.set_running_or_notify_cancel()
        try:
            future.set_result(work())
        # The outermost edge of a thread: whoever waits for the future is told.
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="load", daemon=True).start()
    return future
