"""Versions come and go while the service runs: documents are followed, versions loaded, traffic switched."""

import asyncio
import gc
import logging
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeVar

from serving.deployment import Deployment
from serving.errors import ConflictError, NotReadyError
from serving.models import UNREGISTERED
from serving.runs import AnyEngine
from serving.service import Service, in_daemon_thread
from serving.shadow import Comparison, Shadow
from tfpipe.core.errors import RoutingConflictError, TfpipeError
from tfpipe.core.routing import Routing
from tfpipe.ledger import Ledger

logger = logging.getLogger(__name__)

T = TypeVar("T")
# A version that could not be loaded is not tried again sooner, unless somebody asks for it.
_RETRY_S = 60.0


class Origins(Protocol):
    """Where versions and documents come from; see `serving.sources.Sources`."""

    def follows(self, model: str) -> bool:
        """Whether its documents are written by others too."""

    def ledger(self, model: str) -> Ledger:
        """Where its documents are."""

    def open(self, model: str, version: str) -> AnyEngine:
        """A version, warm."""


@dataclass(frozen=True)
class _Failure:
    error: Exception
    when_s: float


class Rollout:
    """Applies routing documents to a service; on the event loop.

    Attributes:
        problems: By model, why its newest document does not hold here.

    Args:
        service: Whose models.
        origins: Where versions and documents come from; asked in threads.
        poll_s: Time between two looks at the ledger.
    """

    def __init__(self, service: Service, origins: Origins, *, poll_s: float) -> None:
        self.problems: dict[str, str] = {}
        self._service, self._origins, self._poll_s = service, origins, poll_s
        self._heads: dict[str, str] = {}
        self._loading: dict[tuple[str, str], asyncio.Task[Deployment]] = {}
        self._failed: dict[tuple[str, str], _Failure] = {}
        self._kept: set[tuple[str, str | None]] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def begin(self) -> None:
        """Go by the newest document of each model that is loaded, where there is one and it can be gone by."""
        for model in self._service.models.names:
            if not self._origins.follows(model):
                # It was named: no document unloads it.
                self._kept |= {(one.name, one.version) for one in self._service.models if one.name == model}
            await self._look(model)
            self._tell_revision(model)

    async def follow(self) -> None:
        """Look at the registry for ever, and go by what is new; without it, go on by what is known."""
        while True:
            await asyncio.sleep(self._poll_s)
            for model in self._service.models.names:
                if self._origins.follows(model):
                    await self._look_again(model)

    async def accept(self, routing: Routing) -> Routing:
        """Go by a document that stands in the ledger, once the versions that it gives traffic to are loaded.

        Returns:
            The document by which requests go: this one, or one that is newer.

        Raises:
            UnknownModelError: No such model.
            TfpipeError: A version that has a share cannot be loaded; what was before holds.
        """
        models = self._service.models
        models.routing(routing.model)
        for version in routing.shares:
            await self._loaded(routing.model, version)
        optional = [one for one in (*routing.needed, routing.standby) if one is not None and one not in routing.shares]
        if routing.revision > models.routing(routing.model).revision:
            models.route(routing)
            self.problems.pop(routing.model, None)
            self._set_shadow(routing)
            self._tell_revision(routing.model)
            logger.info("routed", extra={"fields": _described(routing)})
            # Not before the switch: a rollback does not wait for what may only be of use later.
            self._spawn(self._tidy(routing, optional))
        return models.routing(routing.model)

    async def change(self, model: str, make: Callable[[Routing], Routing]) -> Routing:
        """Write a change into the ledger, and go by it.

        Args:
            model: Its name.
            make: The document that holds -> the next.

        Raises:
            UnknownModelError: No such model.
            ConflictError: Somebody else made a change at the same time.
            RegistryError: The change cannot be made.
            TrackingError: The registry is away.
            TfpipeError: A version that would have a share cannot be loaded; nothing is written.
        """
        begun = self._service.models.routing(model)
        ledger = self._origins.ledger(model)
        newest = await _in_thread(lambda: ledger.newest(model))
        routing = make(newest or begun)
        for version in routing.shares:
            await self._loaded(model, version)
        try:
            written = await _in_thread(lambda: ledger.append(routing))
        except RoutingConflictError as error:
            raise ConflictError(str(error), model_name=model) from error
        return await self.accept(written)

    async def load(self, model: str, version: str) -> Deployment:
        """Load a version, which takes only requests that name it until routing gives it a share; it stays loaded.

        Raises:
            UnknownModelError: No such model or version.
            TfpipeError: It cannot be served.
        """
        deployment = await self._loaded(model, version, again=True)
        self._kept.add((model, deployment.version))
        return deployment

    async def unload(self, model: str, version: str) -> None:
        """Let a version take no more requests; those that are here are answered first.

        Raises:
            UnknownModelError: It is not loaded.
            ConflictError: Routing gives it traffic.
        """
        routing = self._service.models.routing(model)
        deployment = self._service.models.get(model, version)
        if version in routing.shares:
            raise ConflictError(
                f"version {version!r} of model {model!r}: expected one without traffic, but it has "
                f"{100 * routing.shares[version]:g} %. Give it to another first.",
                model_name=model,
                model_version=version,
            )
        self._kept.discard((model, None if deployment is None else deployment.version))
        self._close(self._service.models.take(model, None if deployment is None else deployment.version))

    async def close(self) -> None:
        """Look no more."""
        tasks = [*self._tasks, *self._loading.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _look_again(self, model: str) -> None:
        try:
            await self._look(model)
        # The outermost edge of a task that must not end: the next look may go better.
        except Exception:
            logger.exception("looking at the registry failed")

    async def _look(self, model: str) -> None:
        try:
            ledger = await _in_thread(lambda: self._origins.ledger(model))
            head = await _in_thread(lambda: ledger.head(model))
            if head == self._heads.get(model, "") and model not in self.problems:
                return
            newest = await _in_thread(lambda: ledger.newest(model))
            if newest is not None:
                await self.accept(newest)
            self.problems.pop(model, None)
            self._heads[model] = head
        # Whatever is wrong with the registry or a version: what is loaded goes on answering.
        except TfpipeError as error:
            if self.problems.get(model) != str(error):
                logger.warning("not routed", extra={"fields": {"model": model, "error": str(error)}})
            self.problems[model] = str(error)

    async def _loaded(self, model: str, version: str, *, again: bool = False) -> Deployment:
        found = self._service.models.get(model, version)
        if found is not None:
            return found
        self._service.models.routing(model)
        failure = self._failed.get((model, version))
        if failure is not None and not again and time.monotonic() < failure.when_s + _RETRY_S:
            raise failure.error
        task = self._loading.get((model, version))
        if task is None:
            task = asyncio.create_task(self._load(model, version))
            self._loading[model, version] = task
            task.add_done_callback(lambda _: self._loading.pop((model, version), None))
        # Who else waits for it must get it, though this one hangs up.
        return await asyncio.shield(task)

    async def _load(self, model: str, version: str) -> Deployment:
        started_s = time.perf_counter()
        try:
            engine = await _in_thread(partial(self._origins.open, model, version))
        except (TfpipeError, MemoryError) as error:
            self._failed[model, version] = _Failure(error, time.monotonic())
            raise
        self._failed.pop((model, version), None)
        if self._service.status == "draining":
            engine.close()
            raise NotReadyError("service: expected it to be ready, but it is draining.", status="draining")
        self._service.metrics.record_load(
            model=model,
            version=engine.version or "",
            seconds=time.perf_counter() - started_s,
            golden_max_abs_diff=engine.golden_max_abs_diff,
        )
        logger.info("loaded", extra={"fields": {"model": model, "version": version}})
        return self._service.deploy(engine)

    async def _tidy(self, routing: Routing, optional: list[str]) -> None:
        """Load what may be of use later, and let go of what is of none."""
        for version in optional:
            try:
                await self._loaded(routing.model, version)
            except (TfpipeError, MemoryError) as error:
                fields = {"model": routing.model, "version": version, "error": str(error)}
                logger.warning("not loaded", extra={"fields": fields})
        models = self._service.models
        current = models.routing(routing.model)
        self._set_shadow(current)
        wanted = {*current.needed, current.standby}
        for deployment in list(models):
            if (
                deployment.name == current.model
                and (deployment.version or UNREGISTERED) not in wanted
                and (deployment.name, deployment.version) not in self._kept
            ):
                self._close(models.take(deployment.name, deployment.version))

    def _set_shadow(self, routing: Routing) -> None:
        models = self._service.models
        asked = models.get(routing.model, routing.shadow) if routing.shadow is not None else None
        for deployment in models:
            if deployment.name == routing.model:
                has_share = (deployment.version or UNREGISTERED) in routing.shares
                asks = asked is not None and has_share and deployment is not asked
                deployment.shadow = Shadow(asked, self._compared(asked)) if asks and asked is not None else None

    def _compared(self, shadow: Deployment) -> Callable[[Comparison], None]:
        labels = self._service.labels_of(shadow)
        return lambda result: self._service.metrics.record_shadow(**labels, result=result)

    def _close(self, deployment: Deployment) -> None:
        async def close() -> None:
            # Requests that found it before, and are still on their way to it.
            await self._service.settled()
            await deployment.close()
            self._service.metrics.forget(**self._service.labels_of(deployment))
            fields = {"model": deployment.name, "version": deployment.version}
            logger.info("unloaded", extra={"fields": fields})
            # Errors of its requests may hold it in circles; nothing else is in a hurry to collect them. Once this task
            # has let go of it.
            asyncio.get_running_loop().call_soon(gc.collect)

        deployment.shadow = None
        self._spawn(close())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _tell_revision(self, model: str) -> None:
        revision = self._service.models.routing(model).revision
        self._service.metrics.set_routing_revision(model=model, revision=revision)


def _described(routing: Routing) -> dict[str, Any]:
    return {
        "model": routing.model, "revision": routing.revision, "shares": routing.shares, "who": routing.who,
        "what": routing.what, "why": routing.why,
    }  # fmt: skip


async def _in_thread(work: Callable[[], T]) -> T:
    # Not a pool's thread, for which the interpreter waits when it exits: a registry that is away may take a while.
    future: Future[T] = in_daemon_thread(work)
    return await asyncio.wrap_future(future)
