import pytest
from prometheus_client.parser import text_string_to_metric_families

from serving.gpu import GpuReading
from serving.metrics import Metrics
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
