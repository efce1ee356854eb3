"""What people and monitoring read: start page, health, metrics, documentation."""

import json

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from serving.app import create_app
from serving.gpu import GpuReading
from serving.metrics import Metrics
from serving.schemas import ErrorAnswer
from serving.settings import ServingSettings
from tests.serving.bundles import RED
from tests.serving.servers import serving, wait_for
from tests.serving.test_engine import fake_engine
from tfpipe.core.bundle import open_bundle
from tfpipe.core.errors import BundleError


def samples(client: httpx.Client, name: str) -> dict[tuple[str, ...], float]:
    """Values of one metric by its labels, in order of their names."""
    families = text_string_to_metric_families(client.get("/metrics").text)
    found = [sample for family in families for sample in family.samples if sample.name == name]
    return {tuple(sample.labels[label] for label in sorted(sample.labels)): sample.value for sample in found}


@pytest.mark.parametrize("path", ["/health", "/health/ready"])
def test_health_names_the_model(client, bundle, path):
    response = client.get(path)

    assert response.status_code == 200
    assert response.json() == {
        "status": "ready",
        "models": [
            {
                "name": "colours",
                "version": "3",
                "aliases": [],
                "variant": "int8",
                "precision": "int8",
                "provider": "cpu",
                "arithmetic": "float32",
                "why": "in the order of conversion: not tuned on this machine",
                "passed_over": [],
                "bundle": open_bundle(bundle).short_id,
                "task": "image_classification",
                "takes": "image",
            }
        ],
    }


@pytest.mark.parametrize("path", ["/health", "/health/live", "/metrics", "/"])
def test_head_is_answered_like_get(client, path):
    response = client.head(path)

    assert (response.status_code, response.content) == (200, b"")


def test_every_request_is_counted_with_its_latency(client):
    before = samples(client, "tfpipe_requests_total")
    latencies = samples(client, "tfpipe_latency_seconds_count").get(("colours", "total", "3"), 0)

    client.post("/predict", content=RED)
    client.post("/predict", content=b"junk")

    after = samples(client, "tfpipe_requests_total")
    for code in ("200", "400"):
        key = (code, "colours", "rest", "3")
        assert after[key] - before.get(key, 0) == 1
    assert samples(client, "tfpipe_latency_seconds_count")[("colours", "total", "3")] - latencies == 2
    assert samples(client, "tfpipe_in_flight") == {(): 0}


def test_every_error_is_counted_by_its_type(client):
    before = samples(client, "tfpipe_errors_total")

    client.post("/predict", content=b"junk")
    client.post("/predict/batch", files=[("files", RED), ("files", b"junk"), ("files", b"")])
    client.post("/predict?model_name=other", content=RED)
    client.get("/nowhere")

    after = samples(client, "tfpipe_errors_total")
    counted = {key[1]: after[key] - before.get(key, 0) for key in after if after[key] != before.get(key, 0)}
    assert counted == {"undecodable_image": 3, "unknown_model": 1, "unknown_path": 1}


def test_stages_batches_and_quantiles_are_measured(client):
    client.post("/predict/batch", files=[("files", RED)] * 6)

    stages = {stage for _, stage, _ in samples(client, "tfpipe_latency_seconds_count")}
    assert stages == {"body", "decode", "preprocess", "queue", "run", "postprocess", "total"}
    assert samples(client, "tfpipe_batch_rows_sum")[()] >= 6
    assert samples(client, "tfpipe_throughput_rps")[("colours", "3")] > 0
    assert ("colours", "0.95", "3") in samples(client, "tfpipe_latency_quantile_seconds")


def test_the_loaded_model_is_measured(client):
    assert samples(client, "tfpipe_ready") == {(): 1}
    assert samples(client, "tfpipe_model_load_seconds")[("colours", "3")] > 0
    assert 0 <= samples(client, "tfpipe_golden_max_abs_diff")[("colours", "3")] < 0.02


def test_gpus_are_read(bundle):
    metrics = Metrics(gpus=lambda: [GpuReading(0, 0.5, 2e9, None, None)])

    with serving(create_app(ServingSettings(model=str(bundle)), metrics=metrics)) as server:
        assert samples(server.client, "tfpipe_gpu_utilization_ratio") == {("0",): 0.5}


def test_a_browser_gets_a_page_without_foreign_resources(client):
    response = client.get("/", headers={"accept": "text/html,*/*"})

    assert response.headers["content-type"].startswith("text/html")
    assert "http://" not in response.text
    assert "https://" not in response.text


def test_a_program_gets_the_model_and_the_endpoints(client):
    start = client.get("/").json()

    assert start["models"][0]["name"] == "colours"
    assert start["example"] == f"curl -F file=@image.png {client.base_url}/predict"
    assert start["endpoints"]["POST /predict"] == "images: multipart field 'file'; texts: JSON with the key 'text'"
    for endpoint in start["endpoints"]:
        method, path = endpoint.split()
        assert client.request(method, path).status_code != 404


@pytest.mark.parametrize("path", ["/nowhere", "/predict/", "/predict/batch/x", "/redoc"])
def test_an_unknown_path_is_404_in_our_form(client, path):
    response = client.get(path)

    error = ErrorAnswer.model_validate(response.json()).error
    assert response.status_code == 404
    assert error.request_id == response.headers["x-request-id"]
    assert error.message == f"{path}: no such path. GET / lists those that there are."


def test_a_method_that_a_path_does_not_take_is_405_in_our_form(client):
    response = client.delete("/metrics")

    assert response.status_code == 405
    assert response.headers["allow"] == "GET"
    assert response.json()["error"]["message"] == "/metrics: expected GET, received DELETE."


def test_an_error_that_nobody_foresaw_is_500_in_our_form_and_logged(bundle, caplog):
    def fail() -> list[GpuReading]:
        raise ZeroDivisionError("secret")

    app = create_app(ServingSettings(model=str(bundle)), metrics=Metrics(gpus=fail))
    with serving(app) as server:
        response = server.client.get("/metrics")
        later = server.client.post("/predict", content=RED)

    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal"
    assert "secret" not in response.text
    assert response.headers["x-request-id"] in response.json()["error"]["message"]
    assert any(record.exc_info and "secret" in str(record.exc_info[1]) for record in caplog.records)
    assert later.status_code == 200


def test_a_lack_of_memory_is_503(bundle):
    def run(rows):
        if rows.any():
            raise RuntimeError("Failed to allocate memory for requested buffer")
        # What warms it up.
        return rows[:, 0, 0]

    exhausted = fake_engine(bundle, preprocess=lambda pixels: np.ones((8, 8, 3), np.float32), model=run)

    with serving(create_app(ServingSettings(model=str(bundle)), open_engines=lambda: [exhausted])) as server:
        one = server.client.post("/predict", content=RED)
        several = server.client.post("/predict/batch", files=[("files", RED)] * 2)

    assert (one.status_code, one.json()["error"]["code"]) == (503, "out_of_memory")
    assert (several.status_code, several.json()["error"]["code"]) == (503, "all_rows_failed")


def test_a_model_that_cannot_be_loaded_is_told_to_whoever_started_it(tmp_path):
    told: list[Exception] = []
    app = create_app(ServingSettings(model=str(tmp_path / "missing")), on_load_error=told.append)

    with serving(app, until="loading") as server:
        wait_for(lambda: told)
        assert server.client.get("/health").status_code == 503

    assert isinstance(told[0], BundleError)


def test_the_documentation_describes_bodies_and_answers(client):
    schema = client.get("/openapi.json").json()

    one = schema["paths"]["/predict"]["post"]
    several = schema["paths"]["/predict/batch"]["post"]
    images = {"multipart/form-data", "image/*", "application/octet-stream"}
    assert set(one["requestBody"]["content"]) == images | {"application/json", "text/plain"}
    assert one["requestBody"]["content"]["application/json"]["schema"]["required"] == ["text"]
    assert set(several["requestBody"]["content"]) == {"multipart/form-data", "application/json"}
    assert several["requestBody"]["content"]["application/json"]["schema"]["properties"]["texts"]["type"] == "array"
    assert {parameter["name"] for parameter in one["parameters"]} >= {"model_name", "model_version", "alias"}
    assert "example" in one["responses"]["200"]["content"]["application/json"]
    assert "422" not in json.dumps(schema["paths"])
    assert client.get("/docs").status_code == 200


def test_the_documentation_refers_to_nothing_that_is_missing(client):
    schema = client.get("/openapi.json").json()

    references = set(json.dumps(schema).split('"#/components/schemas/')[1:])
    names = {reference.split('"')[0] for reference in references}
    assert names <= set(schema["components"]["schemas"])
