"""Memory and restarts of the service and of the processes of its models, read when asked."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.child_process import resident_bytes


@dataclass(frozen=True)
class ModelReading:
    """What is told of a version whose sessions are in processes of their own.

    Attributes:
        model: Its name.
        version: Its version, "" where it has none.
        memory_bytes: Resident memory of its processes; None where the system does not tell.
        restarts: How often they were started again.
        ready: Processes that answer.
    """

    model: str
    version: str
    memory_bytes: int | None
    restarts: int
    ready: int


class MemoryMetrics(Collector):
    """`tfpipe_memory_bytes` of the service itself, and what `ModelReading` says of each version.

    Args:
        read: Gives the versions.
    """

    def __init__(self, read: Callable[[], Iterable[ModelReading]]) -> None:
        self._read = read

    def collect(self) -> Iterator[Metric]:
        """The families."""
        own = GaugeMetricFamily("tfpipe_memory_bytes", "Resident memory of the service, without its models' processes.")
        own_bytes = resident_bytes(os.getpid())
        if own_bytes is not None:
            own.add_metric((), own_bytes)
        who = ("model", "version")
        memory = GaugeMetricFamily(
            "tfpipe_model_memory_bytes", "Resident memory of a version's own processes.", labels=who
        )
        restarts = CounterMetricFamily(
            "tfpipe_model_restarts", "Times that a process of a version was started again.", labels=who
        )
        ready = GaugeMetricFamily("tfpipe_model_processes", "Processes of a version that answer.", labels=who)
        for one in self._read():
            key = (one.model, one.version)
            if one.memory_bytes is not None:
                memory.add_metric(key, one.memory_bytes)
            restarts.add_metric(key, one.restarts)
            ready.add_metric(key, one.ready)
        yield from (own, memory, restarts, ready)
