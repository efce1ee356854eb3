"""A whole measurement: targets in turn, warm-up, search, and an end that somebody may bring early."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Never

import numpy as np
from tqdm import tqdm

from tfpipe.bench.asking import AskedModel, Asking
from tfpipe.bench.criteria import Criterion, Verdict
from tfpipe.bench.load import Load, poisson_arrivals
from tfpipe.bench.record import Record
from tfpipe.bench.search import highest_rate
from tfpipe.core.errors import ConfigError

_TICK_S = 0.2
# A closed loop as long as this says where a search begins.
_FIRST_GUESS_S = 2.0
# A probe is lengthened until its quantile means something, up to this.
_LONGEST_PROBE_S = 30.0


@dataclass(frozen=True)
class Plan:
    """How the load is sent.

    Attributes:
        connections: Of a closed loop its callers; of an open one the most at once.
        rate: Arrivals a second of an open loop; None: a closed loop.
        duration_s: For each target, over all turns.
        warm_up_s: Before anything counts: of closed loops for each turn, of open ones for each target.
        rounds: Turns of each target.
        seed: Of the arrivals.
        criterion: What to search the highest rate for; None: no search.
        probe_s: Length of one step of the search.
    """

    connections: int
    rate: float | None = None
    duration_s: float = 10.0
    warm_up_s: float = 2.0
    rounds: int = 1
    seed: int = 0
    criterion: Criterion | None = None
    probe_s: float = 5.0


@dataclass
class Target:
    """One service under load.

    Attributes:
        title: As given on the command line.
        asking: Its protocol.
        model: What is asked.
        requests: Prepared, sent in turn.
        records: A record a turn.
        probes: Of a search: rate, and how it did.
        found_rate: Of a search: the highest rate that held.
    """

    title: str
    asking: Asking
    model: AskedModel
    requests: list[bytes]
    records: list[Record] = field(default_factory=list)
    probes: list[tuple[float, Verdict]] = field(default_factory=list)
    found_rate: float | None = None


class Session:
    """Runs a plan on targets; what is measured is kept in them, also when it is ended early."""

    def __init__(self, targets: Sequence[Target], plan: Plan) -> None:
        """Measure nothing yet."""
        self._targets, self._plan = targets, plan
        self._rng = np.random.default_rng(plan.seed)
        self._loads: list[Load] = []
        self.interrupted = False

    async def run(self) -> None:
        """Measure.

        Raises:
            ConfigError: A target refuses the very first request.
        """
        with self._ended_by_signals():
            for target in self._targets:
                await check_first(target)
            if self._plan.criterion is not None:
                for target in self._targets:
                    await self._search(target, self._plan.criterion)
            else:
                await self._turns()

    def stop(self) -> None:
        """End it; what was measured stays."""
        self.interrupted = True
        for load in self._loads:
            load.stop()

    async def _turns(self) -> None:
        plan = self._plan
        turn_s = plan.duration_s / plan.rounds
        # A closed loop goes over into what counts; the arrivals of an open one are the same from their first on.
        is_closed = plan.rate is None
        total_s = len(self._targets) * (plan.warm_up_s * (plan.rounds if is_closed else 1) + plan.duration_s)
        async with contextlib.AsyncExitStack() as stack:
            progress = await stack.enter_async_context(_progress(total_s))
            loads = [await stack.enter_async_context(self._loading(target)) for target in self._targets]
            for load, target in zip(loads, self._targets, strict=True):
                if plan.warm_up_s and not is_closed:
                    progress.set_description(f"{target.title}: warming up")
                    await self._send(load, plan.rate, plan.warm_up_s)
            for number in range(plan.rounds):
                # There and back again: what drifts meets both alike.
                for index in range(len(loads))[:: -1 if number % 2 else 1]:
                    if self.interrupted:
                        return
                    progress.set_description(f"{self._targets[index].title}: turn {number + 1}/{plan.rounds}")
                    record = await self._send(loads[index], plan.rate, turn_s, lead_s=plan.warm_up_s)
                    self._targets[index].records.append(record)

    async def _search(self, target: Target, criterion: Criterion) -> None:
        plan = self._plan
        async with _progress(None) as progress, self._loading(target) as load:
            progress.set_description(f"{target.title}: warming up")
            await self._send(load, None, plan.warm_up_s)
            start = (await self._send(load, None, _FIRST_GUESS_S)).answered / _FIRST_GUESS_S

            async def holds(rate: float) -> bool:
                if self.interrupted:
                    return False
                progress.set_description(f"{target.title}: {rate:.4g}/s")
                seconds = min(max(plan.probe_s, criterion.least_requests / rate), _LONGEST_PROBE_S)
                record = await self._send(load, rate, seconds)
                if record.interrupted:
                    return False
                verdict = criterion.judge(record)
                target.probes.append((rate, verdict))
                # The last that held is what the report shows.
                if verdict.holds:
                    target.records = [record]
                return verdict.holds

            found = await highest_rate(holds, start=start) if start > 0 else None
            target.found_rate = None if self.interrupted else found

    async def _send(self, load: Load, rate: float | None, seconds: float, *, lead_s: float = 0.0) -> Record:
        if self.interrupted:
            load.stop()
        if rate is None:
            return await load.closed_loop(seconds, lead_s=lead_s)
        return await load.open_loop(poisson_arrivals(rate, seconds, self._rng), seconds)

    @contextlib.asynccontextmanager
    async def _loading(self, target: Target) -> AsyncIterator[Load]:
        load = Load(target.asking.open_channel, target.requests, connections=self._plan.connections)
        self._loads.append(load)
        try:
            yield load
        finally:
            load.close()
            # Closed connections are told to the loop in its next turn.
            await asyncio.sleep(0)

    @contextlib.contextmanager
    def _ended_by_signals(self) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        signals = (signal.SIGINT, signal.SIGTERM)
        before = {}
        try:
            for signum in signals:
                before[signum] = signal.getsignal(signum)
                loop.add_signal_handler(signum, self.stop)
        except (ValueError, RuntimeError, NotImplementedError):
            # Not the main thread: whoever runs it there calls `stop`.
            yield
            return
        try:
            yield
        finally:
            for signum, handler in before.items():
                loop.remove_signal_handler(signum)
                signal.signal(signum, handler)


async def check_first(target: Target) -> None:
    """Send one request, so that what no request could ever do is told at once.

    Raises:
        ConfigError: It is refused, with what the server says.
    """
    channel = target.asking.open_channel()
    try:
        reply = await channel.exchange(target.requests[0])
    finally:
        channel.close()
    if not reply.ok:
        said = f": {reply.excerpt()}" if reply.body else "."
        raise ConfigError(f"{target.title}: expected the first request to be answered, received {reply.outcome}{said}")


@contextlib.asynccontextmanager
async def _progress(total_s: float | None) -> AsyncIterator["tqdm[Never]"]:
    with tqdm(total=total_s, leave=False, disable=None, unit="s", bar_format=None if total_s is None else _BAR) as bar:
        ticking = asyncio.ensure_future(_tick(bar))
        try:
            yield bar
        finally:
            ticking.cancel()


_BAR = "{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining}"


async def _tick(bar: "tqdm[Never]") -> None:
    while True:
        await asyncio.sleep(_TICK_S)
        bar.update(_TICK_S)
