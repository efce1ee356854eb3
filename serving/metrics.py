"""Every metric of the service, by name.

What a request costs here is counted in microseconds, so that a small model's do not go into counting it: numbers are
kept in plain dictionaries, and become Prometheus' families only when somebody asks. They are changed on the event loop
alone, and read by any thread.
"""

import os
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from serving.answer_cache import AnswerCache
from serving.batching import Reason
from serving.child_process import resident_bytes
from serving.drift import DriftWatch, has_enough
from serving.gpu import ReadGpus
from serving.metric_table import METRICS, Described, Labels
from serving.recent import Clock, Recent

NO_STAGES: Mapping[str, float] = {}
QUANTILES = (0.5, 0.9, 0.95, 0.99)
# From a tiny model on an idle machine to the default deadline.
_LATENCY_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_BATCH_BUCKETS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
# Of the status codes: good answers are below the first.
_FIRST_REFUSAL, _FIRST_ERROR = 400, 500
# A service that is full or drains says nothing of a version, and says it at once.
_NOT_ITS_DOING = {429, 503}

_GPU_READINGS = {
    "tfpipe_gpu_utilization_ratio": "utilization",
    "tfpipe_gpu_memory_used_bytes": "memory_used_bytes",
    "tfpipe_gpu_memory_free_bytes": "memory_free_bytes",
    "tfpipe_gpu_power_watts": "power_watts",
    "tfpipe_gpu_temperature_celsius": "temperature_celsius",
}


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


class Histogram:
    """Counts by bucket, and their sum."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds, self._counts, self._sum = bounds, [0] * (len(bounds) + 1), 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def totals(self) -> tuple[int, float]:
        """How many values were counted, and their sum."""
        return sum(self._counts), self._sum

    def add_to(self, family: HistogramMetricFamily, labels: Labels) -> None:
        """Write the counts as Prometheus wants them: each bucket with all below it."""
        total, buckets = 0, []
        for bound, count in zip((*self._bounds, float("inf")), list(self._counts), strict=True):
            total += count
            buckets.append(("+Inf" if bound == float("inf") else str(bound), float(total)))
        family.add_metric(labels, buckets, self._sum)


class _Version:
    """What is measured of requests to one version."""

    __slots__ = ("answered", "recent", "stages")

    def __init__(self, recent: Recent) -> None:
        self.recent = recent
        self.answered = Histogram(_LATENCY_BUCKETS_S)
        self.stages: dict[str, Histogram] = {}

    def observe(self, stage: str, seconds: float) -> None:
        histogram = self.stages.get(stage)
        if histogram is None:
            histogram = self.stages[stage] = Histogram(_LATENCY_BUCKETS_S)
        histogram.observe(seconds)


class Metrics(Collector):
    """All metrics of one service, in a registry of their own."""

    def __init__(self, *, clock: Clock = time.monotonic, gpus: ReadGpus | None = None) -> None:
        """Start at zero.

        Args:
            clock: Seconds that only go forward.
            gpus: Reads the GPUs; None leaves their metrics out.
        """
        self._clock, self._started_s, self._gpus = clock, clock(), gpus
        self._values: dict[str, dict[Labels, float]] = defaultdict(lambda: defaultdict(float))
        self._requests = self._values["tfpipe_requests_total"]
        self._versions: dict[tuple[str, str], _Version] = {}
        # Of those that are gone: their requests are counted, but not told of as recent.
        self._forgotten: set[tuple[str, str]] = set()
        self._routed: dict[Labels, Histogram] = defaultdict(lambda: Histogram(_LATENCY_BUCKETS_S))
        self._batch_rows = Histogram(_BATCH_BUCKETS)
        self._processes: Callable[[], Iterable[ModelReading]] = tuple
        self._drifts: Callable[[], Iterable[tuple[Labels, DriftWatch]]] = tuple
        self._queue: Callable[[], tuple[int, float]] | None = None
        self._in_flight: Callable[[], int] | None = None
        self._ready: Callable[[], bool] | None = None
        self._cache: AnswerCache[Any] | None = None
        self._registry = CollectorRegistry()
        self._registry.register(self)
        # Its processor time, memory and open files, under the names that dashboards know.
        ProcessCollector(registry=self._registry)

    def record_request(
        self,
        *,
        model: str,
        version: str,
        code: int,
        latency_s: float,
        protocol: str = "rest",
        stage_s: Mapping[str, float] = NO_STAGES,
        is_routed: bool = False,
    ) -> None:
        """Count one finished request and its latency, whatever its outcome, and the seconds of its stages."""
        if is_routed and code not in _NOT_ITS_DOING:
            self._routed[model, version, "failed" if code >= _FIRST_ERROR else "answered"].observe(latency_s)
        self._requests[model, version, protocol, str(code)] += 1
        who = self._versions.get((model, version))
        if who is None:
            who = self._versions[model, version] = _Version(Recent(self._clock, self._started_s))
        for stage, seconds in stage_s.items():
            who.observe(stage, seconds)
        who.observe("total", latency_s)
        # Refusals take no time: among them, the wait of the few that are answered would not be seen.
        is_answered = code < _FIRST_REFUSAL
        who.recent.add(latency_s if is_answered else None)
        if is_answered:
            who.answered.observe(latency_s)

    def record_error(self, *, model: str, version: str, kind: str) -> None:
        """Count one error by its code."""
        self._values["tfpipe_errors_total"][model, version, kind] += 1

    def batch(self, rows: int, reason: Reason) -> None:
        """Record the rows of one run of a model, and why it began."""
        self._batch_rows.observe(rows)
        self._values["tfpipe_batches_total"][(reason,)] += 1

    def record_routed(self, *, model: str, version: str, arm: str) -> None:
        """Count one request by the arm of the split that it went to."""
        self._values["tfpipe_routed_total"][model, version, arm] += 1

    def record_shadow(self, *, model: str, version: str, result: str) -> None:
        """Count one request that a shadow was asked, or would have been."""
        self._values["tfpipe_shadow_total"][model, version, result] += 1

    def record_feedback(self, *, model: str, version: str, correct: bool, is_routed: bool) -> None:
        """Count one answer that somebody called right or wrong."""
        labels = (model, version, str(correct).lower(), str(is_routed).lower())
        self._values["tfpipe_feedback_total"][labels] += 1

    def record_load(self, *, model: str, version: str, seconds: float, golden_max_abs_diff: float) -> None:
        """Record how long a model took until it was ready, and how far its golden answers lay from training's."""
        self._forgotten.discard((model, version))
        self._values["tfpipe_model_load_seconds"][model, version] = seconds
        self.record_golden(model=model, version=version, max_abs_diff=golden_max_abs_diff)

    def record_golden(self, *, model: str, version: str, max_abs_diff: float) -> None:
        """Record how far the golden answers lay from training's when they were last replayed."""
        self._values["tfpipe_golden_max_abs_diff"][model, version] = max_abs_diff

    def forget(self, *, model: str, version: str) -> None:
        """Leave out what was said of a version that is no longer loaded; what was counted stays."""
        for name in ("tfpipe_model_load_seconds", "tfpipe_golden_max_abs_diff"):
            self._values[name].pop((model, version), None)
        self._forgotten.add((model, version))

    def set_routing_revision(self, *, model: str, revision: float) -> None:
        """Say by which revision of the routing requests go."""
        self._values["tfpipe_routing_revision"][(model,)] = revision

    def watch_queue(self, read: Callable[[], tuple[int, float]]) -> None:
        """Ask this, whenever somebody wants metrics, how many rows wait and for how many seconds the oldest has."""
        self._queue = read

    def watch_ready(self, read: Callable[[], bool]) -> None:
        """Ask this, whenever somebody wants metrics, whether requests are taken."""
        self._ready = read

    def watch_in_flight(self, read: Callable[[], int]) -> None:
        """Ask this, whenever somebody wants metrics, how many requests are admitted and not yet answered."""
        self._in_flight = read

    def watch_cache(self, cache: AnswerCache[Any]) -> None:
        """Tell what this cache holds, and how often it had the answer."""
        self._cache = cache

    def watch_processes(self, read: Callable[[], Iterable[ModelReading]]) -> None:
        """Ask for the processes of each version whenever somebody wants metrics."""
        self._processes = read

    def watch_drift(self, read: Callable[[], Iterable[tuple[Labels, DriftWatch]]]) -> None:
        """Ask for what each version was asked of late, by model and version, whenever somebody wants metrics."""
        self._drifts = read

    def stage_totals(self, *, model: str, version: str) -> dict[str, tuple[int, float]]:
        """How many requests to a model version had each stage, and their seconds in it."""
        who = self._versions.get((model, version))
        return {stage: histogram.totals() for stage, histogram in list(who.stages.items())} if who else {}

    def exposition(self) -> bytes:
        """Everything, in Prometheus' text format; reads GPUs and processes, so not on the event loop."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Every family that has a value, in the order of `METRICS`."""
        computed = {
            **self._recent_values(),
            **self._gpu_values(),
            **self._queue_values(),
            **self._cache_values(),
            **self._memory_values(),
            **self._drift_values(),
        }
        histograms: dict[str, Mapping[Labels, Histogram]] = {
            "tfpipe_latency_seconds": {
                (*who, stage): histogram
                for who, version in list(self._versions.items())
                for stage, histogram in list(version.stages.items())
            },
            "tfpipe_answer_latency_seconds": {who: version.answered for who, version in list(self._versions.items())},
            "tfpipe_routed_latency_seconds": dict(self._routed),
            "tfpipe_batch_rows": {(): self._batch_rows},
        }
        for one in METRICS:
            if one.kind == "histogram":
                yield _histograms(one, histograms[one.name])
            else:
                values = computed.get(one.name, self._values.get(one.name, {}))
                if values:
                    yield _family(one, list(values.items()))

    def _recent_values(self) -> dict[str, dict[Labels, float]]:
        throughput: dict[Labels, float] = {}
        quantiles: dict[Labels, float] = {}
        for who, version in list(self._versions.items()):
            if who in self._forgotten:
                continue
            throughput[who] = version.recent.rate()
            for share, latency_s in zip(QUANTILES, version.recent.quantiles(QUANTILES), strict=False):
                quantiles[*who, str(share)] = latency_s
        return {"tfpipe_throughput_rps": throughput, "tfpipe_latency_quantile_seconds": quantiles}

    def _queue_values(self) -> dict[str, dict[Labels, float]]:
        values: dict[str, dict[Labels, float]] = {}
        if self._in_flight is not None:
            values["tfpipe_in_flight"] = {(): self._in_flight()}
        if self._ready is not None:
            values["tfpipe_ready"] = {(): int(self._ready())}
        if self._queue is not None:
            rows, oldest_s = self._queue()
            values |= {"tfpipe_queue_rows": {(): rows}, "tfpipe_queue_oldest_seconds": {(): oldest_s}}
        return values

    def _cache_values(self) -> dict[str, dict[Labels, float]]:
        cache = self._cache
        if cache is None:
            return {}
        return {
            "tfpipe_cache_lookups_total": {("hit",): cache.hits, ("miss",): cache.misses},
            "tfpipe_cache_bytes": {(): cache.used_bytes},
        }

    def _gpu_values(self) -> dict[str, dict[Labels, float]]:
        readings = self._gpus() if self._gpus is not None else []
        return {
            name: {
                (str(reading.index),): value
                for reading in readings
                if (value := getattr(reading, attribute)) is not None
            }
            for name, attribute in _GPU_READINGS.items()
        }

    def _memory_values(self) -> dict[str, dict[Labels, float]]:
        own_bytes = resident_bytes(os.getpid())
        read = {(one.model, one.version): one for one in self._processes()}
        memory: dict[Labels, float] = {
            who: one.memory_bytes for who, one in read.items() if one.memory_bytes is not None
        }
        return {
            "tfpipe_memory_bytes": {} if own_bytes is None else {(): own_bytes},
            "tfpipe_model_memory_bytes": memory,
            "tfpipe_model_restarts_total": {who: one.restarts for who, one in read.items()},
            "tfpipe_model_processes": {who: one.ready for who, one in read.items()},
        }

    def _drift_values(self) -> dict[str, dict[Labels, float]]:
        values: dict[str, dict[Labels, float]] = defaultdict(dict)
        for who, watch in self._drifts():
            readings = watch.readings()
            for kind, count in watch.odd().items():
                values["tfpipe_odd_inputs_total"][*who, kind] = count
            if readings:
                values["tfpipe_drift_window_rows"][who] = max(reading.rows for reading in readings)
            for reading in filter(has_enough, readings):
                name = (*who, reading.feature.name)
                values["tfpipe_drift_psi"][name] = reading.psi
                values["tfpipe_drift_psi_limit"][name] = reading.limit
                if reading.ks is not None:
                    values["tfpipe_drift_ks"][name] = reading.ks
        return values


def _family(one: Described, values: Iterable[tuple[Labels, float]]) -> Metric:
    kind = CounterMetricFamily if one.kind == "counter" else GaugeMetricFamily
    family = kind(one.name, one.text, labels=one.labels)
    for labels, value in values:
        family.add_metric(labels, value)
    return family


def _histograms(one: Described, values: Mapping[Labels, Histogram]) -> Metric:
    family = HistogramMetricFamily(one.name, one.text, labels=one.labels)
    for labels, histogram in list(values.items()):
        histogram.add_to(family, labels)
    return family
