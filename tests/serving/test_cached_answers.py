"""The cache of answers in a real service."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.serving.bundles import BLUE, GREEN, RED
from tests.serving.servers import app_of, serving


@pytest.fixture
def cached(bundle):
    with serving(app_of(bundle, cache_bytes=1_000_000)) as server:
        yield server.client


def lookups(client) -> dict[str, float]:
    return {
        sample.labels["result"]: sample.value
        for family in text_string_to_metric_families(client.get("/metrics").text)
        for sample in family.samples
        if sample.name == "tfpipe_cache_lookups_total"
    }


def batches(client) -> float:
    lines = client.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("tfpipe_batches_total"))


def test_the_same_input_is_answered_the_same_without_a_run(cached):
    first = cached.post("/predict", content=RED).json()["predictions"]
    before = batches(cached)

    second = cached.post("/predict", content=RED).json()["predictions"]

    assert second == first
    assert batches(cached) == before
    assert lookups(cached) == {"hit": 1, "miss": 1}


def test_of_a_batch_only_what_is_new_is_run_and_the_order_stays(cached):
    alone = {name: cached.post("/predict", content=name).json()["predictions"][0]["label"] for name in (RED, GREEN)}

    together = cached.post("/predict/batch", files=[("files", one) for one in (GREEN, b"junk", BLUE, RED)]).json()[
        "predictions"
    ]

    assert together[0]["label"] == alone[GREEN]
    assert together[1]["error"]["code"] == "undecodable_image"
    assert together[2]["label"] == "blue"
    assert together[3]["label"] == alone[RED]
    assert lookups(cached) == {"hit": 2, "miss": 4}


def test_what_failed_is_not_kept(cached):
    for _ in range(2):
        assert cached.post("/predict", content=b"junk").status_code == 400

    assert lookups(cached) == {"hit": 0, "miss": 2}


def test_without_the_setting_there_is_no_cache(client):
    assert "tfpipe_cache" not in client.get("/metrics").text
