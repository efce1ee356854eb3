import math
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from serving.answer_cache import AnswerCache
from serving.gpu import GpuReading
from serving.metrics import Metrics, ModelReading
from serving.recent import WINDOW_S
from tests.serving.clocks import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def metrics(clock: FakeClock) -> Metrics:
    return Metrics(clock=clock)


def values(metrics: Metrics) -> dict[str, float]:
    """Every sample, by name and labels as in the exposition."""
    return {
        sample.name + "".join(f",{sample.labels[label]}" for label in sorted(sample.labels)): sample.value
        for family in text_string_to_metric_families(metrics.exposition().decode())
        for sample in family.samples
    }


def record(metrics: Metrics, latency_s: float = 0.01, code: int = 200) -> None:
    metrics.record_request(model="m", version="1", code=code, latency_s=latency_s)


def test_requests_are_counted_by_code(metrics):
    record(metrics)
    record(metrics, code=400)
    record(metrics, code=400)

    assert values(metrics)["tfpipe_requests_total,200,m,rest,1"] == 1
    assert values(metrics)["tfpipe_requests_total,400,m,rest,1"] == 2


def test_latencies_are_recorded_whatever_the_outcome(metrics):
    record(metrics, 0.25)
    record(metrics, 0.5, code=500)

    assert values(metrics)["tfpipe_latency_seconds_count,m,total,1"] == 2
    assert values(metrics)["tfpipe_latency_seconds_sum,m,total,1"] == 0.75


def test_quantiles_are_right_to_one_percent(metrics):
    for milliseconds in range(1, 102):
        record(metrics, milliseconds / 1000)

    assert values(metrics)["tfpipe_latency_quantile_seconds,m,0.5,1"] == pytest.approx(0.051, rel=0.0101)
    assert values(metrics)["tfpipe_latency_quantile_seconds,m,0.95,1"] == pytest.approx(0.096, rel=0.0101)


def test_refusals_and_failures_do_not_hide_how_long_those_waited_that_were_answered(metrics):
    for _ in range(99):
        record(metrics, 0.0004, code=429)
        record(metrics, 0.0004, code=500)
    record(metrics, 2.0)

    read = values(metrics)
    assert read["tfpipe_latency_quantile_seconds,m,0.5,1"] == pytest.approx(2.0, rel=0.0101)
    assert read["tfpipe_answer_latency_seconds_count,m,1"] == 1
    assert read["tfpipe_answer_latency_seconds_sum,m,1"] == 2.0
    assert read["tfpipe_latency_seconds_count,m,total,1"] == 199
    assert read["tfpipe_throughput_rps,m,1"] == 199


def test_throughput_is_that_of_the_last_minute(metrics, clock):
    clock.now_s += 100
    for _ in range(120):
        record(metrics)
    clock.now_s += 30

    assert values(metrics)["tfpipe_throughput_rps,m,1"] == pytest.approx(120 / WINDOW_S)


def test_a_young_service_divides_by_its_age(metrics, clock):
    for _ in range(20):
        record(metrics)
    clock.now_s += 10

    assert values(metrics)["tfpipe_throughput_rps,m,1"] == pytest.approx(2.0)


def test_what_is_older_than_the_window_no_longer_counts(metrics, clock):
    record(metrics, 5.0)
    clock.now_s += WINDOW_S + 1

    assert values(metrics)["tfpipe_throughput_rps,m,1"] == 0
    assert "tfpipe_latency_quantile_seconds,m,0.5,1" not in values(metrics)


def test_a_gpu_is_read_when_asked():
    metrics = Metrics(gpus=lambda: [GpuReading(0, 0.5, 2e9, 300.0, 60.0), GpuReading(1, None, 1e9, None, 50.0)])

    read = values(metrics)

    assert read["tfpipe_gpu_utilization_ratio,0"] == 0.5
    assert read["tfpipe_gpu_memory_used_bytes,1"] == 1e9
    assert read["tfpipe_gpu_power_watts,0"] == 300.0
    assert read["tfpipe_gpu_temperature_celsius,1"] == 50.0
    assert "tfpipe_gpu_utilization_ratio,1" not in read


def test_without_gpus_there_are_no_metrics_of_them(metrics):
    assert "tfpipe_gpu" not in metrics.exposition().decode()


def test_batches_are_counted_by_why_they_began(metrics):
    metrics.batch(4, "full")
    metrics.batch(2, "free")
    metrics.batch(1, "free")

    read = values(metrics)
    assert read["tfpipe_batches_total,free"] == 2
    assert (read["tfpipe_batch_rows_count"], read["tfpipe_batch_rows_sum"]) == (3, 7)


def test_queue_and_cache_are_asked_when_somebody_wants_to_know(metrics):
    cache: AnswerCache[str] = AnswerCache(1000)
    metrics.watch_queue(lambda: (7, 0.25))
    metrics.watch_cache(cache)

    cache.get(b"a")

    read = values(metrics)
    assert (read["tfpipe_queue_rows"], read["tfpipe_queue_oldest_seconds"]) == (7, 0.25)
    assert (read["tfpipe_cache_lookups_total,miss"], read["tfpipe_cache_lookups_total,hit"]) == (1, 0)


def test_memory_is_that_of_the_service_and_of_the_processes_of_its_models(metrics):
    metrics.watch_processes(lambda: [ModelReading("digits", "3", 5_000_000, restarts=2, ready=1)])

    read = values(metrics)

    assert read["tfpipe_memory_bytes"] > 1e6
    assert read["tfpipe_model_memory_bytes,digits,3"] == 5_000_000
    assert read["tfpipe_model_restarts_total,digits,3"] == 2
    assert read["tfpipe_model_processes,digits,3"] == 1


def test_a_version_that_is_gone_is_not_told_of_but_what_was_counted_stays(metrics):
    metrics.record_load(model="m", version="1", seconds=2.0, golden_max_abs_diff=0.01)
    record(metrics)

    metrics.forget(model="m", version="1")

    read = values(metrics)
    assert read["tfpipe_requests_total,200,m,rest,1"] == 1
    assert not any(name.startswith(("tfpipe_model_load", "tfpipe_golden", "tfpipe_throughput")) for name in read)


def test_routing_is_counted_by_arm(metrics):
    metrics.record_routed(model="m", version="1", arm="champion")
    metrics.set_routing_revision(model="m", revision=12)

    assert values(metrics)["tfpipe_routed_total,champion,m,1"] == 1
    assert values(metrics)["tfpipe_routing_revision,m"] == 12


latencies = st.lists(st.floats(1e-5, 100), min_size=1, max_size=200)


@given(latencies=latencies)
def test_quantiles_are_those_of_all_requests_to_one_percent(latencies):
    metrics = Metrics(clock=FakeClock())
    for latency in latencies:
        record(metrics, latency)

    read = values(metrics)

    for share in (0.5, 0.9, 0.95, 0.99):
        exact = sorted(latencies)[math.ceil(share * len(latencies)) - 1]
        assert read[f"tfpipe_latency_quantile_seconds,m,{share},1"] == pytest.approx(exact, rel=0.0101)


@given(latencies=latencies)
def test_each_bucket_has_all_that_are_not_above_it(latencies):
    metrics = Metrics(clock=FakeClock())
    for latency in latencies:
        record(metrics, latency)

    read = values(metrics)

    for bound in ("0.0005", "0.01", "0.1", "1.0", "60.0", "+Inf"):
        expected = sum(latency <= float(bound) for latency in latencies)
        assert read[f"tfpipe_latency_seconds_bucket,{bound},m,total,1"] == expected
    assert read["tfpipe_latency_seconds_sum,m,total,1"] == pytest.approx(sum(latencies))


def test_metrics_can_be_read_while_requests_are_counted():
    metrics = Metrics()
    ended = threading.Event()

    def count() -> None:
        for version in range(3000):
            metrics.record_request(model="m", version=str(version % 100), code=200, latency_s=version / 1000)
        ended.set()

    thread = threading.Thread(target=count)
    thread.start()
    while not ended.is_set():
        metrics.exposition()
    thread.join()

    assert sum(value for name, value in values(metrics).items() if name.startswith("tfpipe_requests_total")) == 3000
