"""Every metric of the service, by name."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from serving.batching import Reason
from serving.gpu import GpuReading, ReadGpus

WINDOW_S = 60.0
QUANTILES = (0.5, 0.9, 0.95, 0.99)
# From a tiny model on an idle machine to the default deadline.
_LATENCY_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
# Quantiles are exact over this many of the newest requests; more would only cost memory.
_MAX_LATENCIES = 4096

Clock = Callable[[], float]


class Metrics:
    """All metrics of one service, in a registry of their own."""

    def __init__(self, *, clock: Clock = time.monotonic, gpus: ReadGpus | None = None) -> None:
        """Start at zero.

        Args:
            clock: Seconds that only go forward.
            gpus: Reads the GPUs; None leaves their metrics out.
        """
        self._registry = registry = CollectorRegistry()
        who = ("model", "version")
        self._requests = Counter("tfpipe_requests", "Finished requests.", (*who, "protocol", "code"), registry=registry)
        self._errors = Counter(
            "tfpipe_errors", "Errors by their code; in a batch, one a row.", (*who, "type"), registry=registry
        )
        self._latency = Histogram(
            "tfpipe_latency_seconds",
            "Seconds by stage of a request; total is all of it.",
            (*who, "stage"),
            buckets=_LATENCY_BUCKETS_S,
            registry=registry,
        )
        self._batch_rows = Histogram(
            "tfpipe_batch_rows", "Rows of one run of the model.", buckets=_BATCH_BUCKETS, registry=registry
        )
        self._batches = Counter(
            "tfpipe_batches",
            "Runs of the model by why they began: full, window (it was over) or free (a session was).",
            ("reason",),
            registry=registry,
        )
        self._in_flight = Gauge("tfpipe_in_flight", "Requests admitted and not yet answered.", registry=registry)
        self._load = Gauge("tfpipe_model_load_seconds", "Seconds until the model was ready.", who, registry=registry)
        self._golden = Gauge(
            "tfpipe_golden_max_abs_diff",
            "Largest difference from training's answers to the golden samples.",
            who,
            registry=registry,
        )
        self._ready = Gauge("tfpipe_ready", "Whether requests are taken: 1 or 0.", registry=registry)
        self._recent = _Recent(clock)
        self._registry.register(self._recent)
        if gpus is not None:
            self._registry.register(_Gpus(gpus))

    def record_request(self, *, model: str, version: str, code: int, latency_s: float, protocol: str = "rest") -> None:
        """Count one finished request and its latency, whatever its outcome."""
        self._requests.labels(model, version, protocol, str(code)).inc()
        self._latency.labels(model, version, "total").observe(latency_s)
        self._recent.add((model, version), latency_s)

    def record_stage(self, *, model: str, version: str, stage: str, latency_s: float) -> None:
        """Record the seconds of one stage of a request: body, decode, preprocess, queue, run or postprocess."""
        self._latency.labels(model, version, stage).observe(latency_s)

    def record_error(self, *, model: str, version: str, kind: str) -> None:
        """Count one error by its code."""
        self._errors.labels(model, version, kind).inc()

    def batch(self, rows: int, reason: Reason) -> None:
        """Record the rows of one run of the model, and why it began."""
        self._batch_rows.observe(rows)
        self._batches.labels(reason).inc()

    def record_load(self, *, model: str, version: str, seconds: float, golden_max_abs_diff: float) -> None:
        """Record how long a model took until it was ready, and how far its golden answers lay from training's."""
        self._load.labels(model, version).set(seconds)
        self._golden.labels(model, version).set(golden_max_abs_diff)

    def set_ready(self, ready: bool) -> None:
        """Say whether requests are taken."""
        self._ready.set(int(ready))

    def set_in_flight(self, requests: int) -> None:
        """Say how many requests are admitted and not yet answered."""
        self._in_flight.set(requests)

    def exposition(self) -> bytes:
        """Everything, in Prometheus' text format."""
        return generate_latest(self._registry)


class _Recent(Collector):
    """Throughput and exact quantiles of the last minute, computed when asked."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._started_s = clock()
        self._lock = threading.Lock()
        self._seconds: dict[tuple[str, str], deque[list[int]]] = {}
        self._latencies: dict[tuple[str, str], deque[tuple[float, float]]] = {}

    def add(self, key: tuple[str, str], latency_s: float) -> None:
        now = self._clock()
        with self._lock:
            seconds = self._seconds.setdefault(key, deque())
            if seconds and seconds[-1][0] == int(now):
                seconds[-1][1] += 1
            else:
                seconds.append([int(now), 1])
            while seconds[0][0] <= now - WINDOW_S:
                seconds.popleft()
            self._latencies.setdefault(key, deque(maxlen=_MAX_LATENCIES)).append((now, latency_s))

    def collect(self) -> Iterator[GaugeMetricFamily]:
        now = self._clock()
        throughput = GaugeMetricFamily(
            "tfpipe_throughput_rps", "Requests per second over the last minute.", labels=("model", "version")
        )
        quantiles = GaugeMetricFamily(
            "tfpipe_latency_quantile_seconds",
            "Quantiles of whole requests over the last minute.",
            labels=("model", "version", "quantile"),
        )
        # A service younger than the window divides by its age, not by time in which it did not run.
        window_s = max(min(WINDOW_S, now - self._started_s), 1.0)
        with self._lock:
            for key, seconds in self._seconds.items():
                count = sum(requests for second, requests in seconds if second > now - WINDOW_S)
                throughput.add_metric(key, count / window_s)
            for key, latencies in self._latencies.items():
                recent = [latency for when, latency in latencies if when > now - WINDOW_S]
                if recent:
                    for quantile, value in zip(QUANTILES, np.quantile(recent, QUANTILES), strict=True):
                        quantiles.add_metric((*key, str(quantile)), float(value))
        yield throughput
        yield quantiles


class _Gpus(Collector):
    """One gauge a reading, for every GPU that tells it."""

    _READINGS = (
        ("utilization_ratio", "utilization", "Share of the last sample period with a kernel running."),
        ("memory_used_bytes", "memory_used_bytes", "Device memory in use."),
        ("power_watts", "power_watts", "Current draw."),
        ("temperature_celsius", "temperature_celsius", "Temperature of the chip."),
    )

    def __init__(self, read: ReadGpus) -> None:
        self._read = read

    def collect(self) -> Iterator[GaugeMetricFamily]:
        readings = self._read()
        for name, attribute, text in self._READINGS:
            yield self._family(name, attribute, text, readings)

    def _family(self, name: str, attribute: str, text: str, readings: list[GpuReading]) -> GaugeMetricFamily:
        family = GaugeMetricFamily(f"tfpipe_gpu_{name}", text, labels=("gpu",))
        for reading in readings:
            value = getattr(reading, attribute)
            if value is not None:
                family.add_metric((str(reading.index),), value)
        return family
