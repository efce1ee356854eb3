"""Sending a load: a closed loop of connections that wait for their answers, or an open one of arrivals that do not.

Latencies of the open loop count from the moment at which a request was *to be* sent. A generator that waits for a slow
answer before it sends on measures the requests that it spares the server as if they had never been due ("coordinated
omission"), and misses just the slow ones. Source: Tene, "How NOT to Measure Latency", Strange Loop 2015; Schroeder,
Wierman & Harchol-Balter, "Open Versus Closed: A Cautionary Tale", NSDI 2006.
"""

import asyncio
import contextlib
import itertools
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tfpipe.bench.alarm import alarm
from tfpipe.bench.channel import UNREACHABLE, Channel
from tfpipe.bench.record import Record

# A server that is away is asked again so often and not oftener.
_AWAY_S = 0.05


def poisson_arrivals(rate: float, duration_s: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Moments of a Poisson process, as many strangers make it: gaps are exponential.

    Source: Schroeder, Wierman & Harchol-Balter, NSDI 2006, section 2.

    Args:
        rate: Arrivals a second; > 0.
        duration_s: Length; > 0.
        rng: Where chance comes from.

    Returns:
        (arrivals,) float64, seconds from the start, rising.
    """
    # Given their number, the moments of a Poisson process are uniform.
    return np.sort(rng.uniform(0.0, duration_s, rng.poisson(rate * duration_s)))


class Load:
    """Sends prepared requests through channels of its own.

    Attributes:
        channels: Open as long as this lives; close with `close`.
    """

    def __init__(
        self,
        open_channel: Callable[[], Channel],
        requests: Sequence[bytes],
        *,
        connections: int,
        on_answer: Callable[[], None] = lambda: None,
    ) -> None:
        """Connect to nothing yet.

        Args:
            open_channel: Makes a channel.
            requests: Sent in turn; at least one.
            connections: Most of them; the number of callers of a closed loop.
            on_answer: Called after each answer.
        """
        self.channels = [open_channel() for _ in range(connections)]
        self._requests: Iterator[bytes] = itertools.cycle(requests)
        self._on_answer = on_answer
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        """Send no more; what is under way is waited for no longer."""
        self._stopped.set()

    @property
    def is_stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped.is_set()

    def close(self) -> None:
        """Close all channels."""
        for channel in self.channels:
            channel.close()

    async def closed_loop(self, duration_s: float, *, lead_s: float = 0.0) -> Record:
        """Each connection sends its next request when it has its answer.

        Args:
            duration_s: Seconds in which answers count.
            lead_s: Seconds before. A turn that began with an empty service would count the time to its first answers,
                and none for it.
        """
        record = Record(started_s=time.monotonic() + lead_s)
        record.ended_s = record.started_s + duration_s
        callers = [self._call(channel, record) for channel in self.channels]
        return await self._measured(record, callers)

    async def open_loop(self, arrivals_s: NDArray[np.float64], duration_s: float) -> Record:
        """Send a request at each moment, whether or not earlier ones are answered.

        Args:
            arrivals_s: (arrivals,) seconds from the start, rising. Where all connections are taken, a request waits for
                one, and its wait is part of its latency.
            duration_s: Seconds that the arrivals span.
        """
        due = _Due()
        record = Record(started_s=time.monotonic())
        record.ended_s = record.started_s + duration_s
        callers = [self._call_when_due(channel, due, record) for channel in self.channels]
        return await self._measured(record, [self._schedule(arrivals_s, due, record), *callers])

    async def _measured(self, record: Record, work: Sequence[Coroutine[Any, Any, None]]) -> Record:
        began_s, computed_s = time.monotonic(), time.process_time()
        tasks = [asyncio.ensure_future(one) for one in work]
        stopped = asyncio.ensure_future(self._stopped.wait())
        done = asyncio.gather(*tasks)
        try:
            either: set[asyncio.Future[Any]] = {done, stopped}
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            # Of what is sent and not answered when somebody stops it, nothing is known.
            record.interrupted = not done.done()
            now_s = time.monotonic()
            record.busy_share = (time.process_time() - computed_s) / max(now_s - began_s, 1e-9)
            if record.interrupted:
                record.ended_s = min(record.ended_s, now_s)
                done.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await done
                self.close()
            else:
                done.result()
        finally:
            for task in (stopped, *tasks):
                task.cancel()
        return record

    async def _call(self, channel: Channel, record: Record) -> None:
        while (sent_s := time.monotonic()) < record.ended_s:
            await self._send(channel, sent_s, record)

    async def _call_when_due(self, channel: Channel, due: "_Due", record: Record) -> None:
        while (intended_s := await due.get()) is not None:
            await self._send(channel, intended_s, record)

    async def _send(self, channel: Channel, intended_s: float, record: Record) -> None:
        reply = await channel.exchange(next(self._requests))
        done_s = time.monotonic()
        if done_s >= record.started_s:
            record.add(intended_s, done_s, reply)
        self._on_answer()
        if reply.outcome == UNREACHABLE:
            await asyncio.sleep(_AWAY_S)

    async def _schedule(self, arrivals_s: NDArray[np.float64], due: "_Due", record: Record) -> None:
        with alarm() as clock:
            for moment_s in (arrivals_s + record.started_s).tolist():
                if moment_s > time.monotonic():
                    await clock.wait_until(moment_s)
                record.add_lag(time.monotonic() - moment_s)
                due.put(moment_s)
        due.end()


class _Due:
    """Moments of sending that wait for a caller, or callers that wait for one.

    The caller that became free last is the next: no more connections are open than were needed at once.
    """

    def __init__(self) -> None:
        self._moments: deque[float] = deque()
        self._callers: list[asyncio.Future[float | None]] = []
        self._ended = False

    def put(self, moment_s: float) -> None:
        while self._callers:
            caller = self._callers.pop()
            if not caller.done():
                caller.set_result(moment_s)
                return
        self._moments.append(moment_s)

    def end(self) -> None:
        self._ended = True
        for caller in self._callers:
            if not caller.done():
                caller.set_result(None)

    async def get(self) -> float | None:
        """The moment that has waited longest; None when there will be no more."""
        if self._moments:
            return self._moments.popleft()
        if self._ended:
            return None
        caller: asyncio.Future[float | None] = asyncio.get_running_loop().create_future()
        self._callers.append(caller)
        return await caller
