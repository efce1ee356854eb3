"""What is measured of requests, for whatever is sent."""

import contextlib
import logging
import math
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from serving.app import create_app
from serving.gpu import GpuReading
from serving.metrics import Metrics
from serving.recent import WINDOW_S
from serving.settings import ServingSettings
from tests.serving.clocks import FakeClock
from tests.serving.requests_of_all_kinds import ask, errors, mixes
from tests.serving.servers import serving

# The server is the same for all examples: what it counted before is taken off.
PROPERTY = settings(
    max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def samples(text: str, name: str) -> dict[tuple[str, ...], float]:
    """Samples of one name, by the values of their labels in the labels' order."""
    return {
        tuple(sample.labels[label] for label in sorted(sample.labels)): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    }


def total_of(client, name: str) -> float:
    return samples(client.get("/metrics").text, name)[("colours", "total", "3")]


# Feature: deep-learning-pipeline, Property 16: Latency recorded
@PROPERTY
@given(requests=mixes)
def test_every_processed_requests_latency_is_in_the_metrics(client, requests):
    ask(client, [({"url": "/predict", "content": b""}, None)])
    count, seconds = total_of(client, "tfpipe_latency_seconds_count"), total_of(client, "tfpipe_latency_seconds_sum")

    responses = ask(client, requests)

    recorded_s = total_of(client, "tfpipe_latency_seconds_sum") - seconds
    told_s = sum(response.json().get("latency_ms", 0) for response in responses) / 1000
    assert total_of(client, "tfpipe_latency_seconds_count") - count == len(requests)
    # The service's part of what the client saw, and no less than the answers say (to the microsecond).
    assert told_s - 1e-5 <= recorded_s <= sum(response.elapsed.total_seconds() for response in responses)


readings = st.lists(
    st.builds(
        GpuReading,
        index=st.integers(0, 7),
        utilization=st.none() | st.floats(0, 1),
        memory_used_bytes=st.none() | st.floats(0, 2e11),
        power_watts=st.none() | st.floats(0, 1e3),
        temperature_celsius=st.none() | st.floats(0, 110),
        memory_free_bytes=st.none() | st.floats(0, 2e11),
    ),
    max_size=4,
    unique_by=lambda reading: reading.index,
)


class Gpus:
    """What NVML would tell."""

    def __init__(self) -> None:
        self.readings: list[GpuReading] = []

    def __call__(self) -> list[GpuReading]:
        return self.readings


@pytest.fixture(scope="module")
def gpus() -> Gpus:
    return Gpus()


@pytest.fixture(scope="module")
def gpu_client(bundle, gpus):
    with serving(create_app(ServingSettings(model=str(bundle)), metrics=Metrics(gpus=gpus))) as server:
        yield server.client


# Feature: deep-learning-pipeline, Property 17: GPU tracked
@PROPERTY
@given(told=readings)
def test_what_a_gpu_tells_can_be_queried(gpu_client, gpus, told):
    gpus.readings = told

    text = gpu_client.get("/metrics").text

    for name, attribute in (
        ("tfpipe_gpu_utilization_ratio", "utilization"),
        ("tfpipe_gpu_memory_used_bytes", "memory_used_bytes"),
        ("tfpipe_gpu_memory_free_bytes", "memory_free_bytes"),
        ("tfpipe_gpu_power_watts", "power_watts"),
        ("tfpipe_gpu_temperature_celsius", "temperature_celsius"),
    ):
        values = {(str(one.index),): getattr(one, attribute) for one in told}
        assert samples(text, name) == {gpu: value for gpu, value in values.items() if value is not None}


# Feature: deep-learning-pipeline, Property 18: Throughput available
@PROPERTY
@given(gaps_s=st.lists(st.floats(0, 30), max_size=80), later_s=st.floats(0, 90))
def test_requests_per_second_are_those_of_the_time_stamps(gaps_s, later_s):
    clock = FakeClock()
    metrics, started_s, ended_s = Metrics(clock=clock), clock.now_s, []
    for gap_s in gaps_s:
        clock.now_s += gap_s
        metrics.record_request(model="m", version="1", code=200, latency_s=0.01)
        ended_s.append(clock.now_s)
    clock.now_s += later_s

    exposed = samples(metrics.exposition().decode(), "tfpipe_throughput_rps")

    age_s = max(min(clock.now_s - started_s, WINDOW_S), 1.0)
    # Seconds are counted whole: the oldest one is in the window or not.
    least = sum(clock.now_s - when < WINDOW_S - 1 for when in ended_s)
    most = sum(clock.now_s - when < WINDOW_S for when in ended_s)
    assert bool(exposed) == bool(ended_s)
    for rate in exposed.values():
        assert least / age_s - 1e-9 <= rate <= most / age_s + 1e-9


class Kept(logging.Handler):
    """The fields of every record."""

    def __init__(self) -> None:
        super().__init__()
        self.fields: list[dict[str, object]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.fields.append(getattr(record, "fields", {}))


@contextlib.contextmanager
def logged() -> Iterator[Kept]:
    kept = Kept()
    logging.getLogger("serving").addHandler(kept)
    try:
        yield kept
    finally:
        logging.getLogger("serving").removeHandler(kept)


# Feature: deep-learning-pipeline, Property 19: Errors recorded
@PROPERTY
@given(requests=errors)
def test_every_error_counts_by_its_type_and_is_logged_with_its_details(client, requests):
    before = samples(client.get("/metrics").text, "tfpipe_errors_total")

    with logged() as log:
        responses = ask(client, requests)

    after = samples(client.get("/metrics").text, "tfpipe_errors_total")
    counted = {kind: after[who, kind, version] - before.get((who, kind, version), 0) for who, kind, version in after}
    assert {kind: count for kind, count in counted.items() if count} == Counter(code for _, code in requests)
    by_id = {fields["request_id"]: fields for fields in log.fields if "request_id" in fields}
    for response, (_, code) in zip(responses, requests, strict=True):
        told = response.json()["error"]
        fields = by_id[response.headers["x-request-id"]]
        assert (fields["code"], fields["status"], fields["error"]) == (code, response.status_code, told["message"])
        assert told["code"] == code
        assert math.isfinite(float(str(fields["latency_ms"])))
