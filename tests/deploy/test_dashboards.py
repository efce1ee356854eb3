"""Grafana can draw what the dashboards' files say: there is no Grafana here to ask, so their parts are looked at."""

import itertools
import json

import pytest

from tests.deploy.monitoring_files import (
    DASHBOARDS,
    MONITORING,
    SERVICE_SERIES,
    dashboard_queries,
    panels,
    read_yaml,
    rules,
    series_in,
)

_COLUMNS = 24


@pytest.fixture(params=DASHBOARDS, ids=lambda path: path.stem)
def dashboard(request):
    return request.param


def test_there_is_one_of_the_service_and_one_of_training():
    assert [json.loads(path.read_text())["uid"] for path in DASHBOARDS] == ["tfpipe-service", "tfpipe-training"]


def test_panels_have_their_own_numbers_and_places(dashboard):
    board = json.loads(dashboard.read_text())

    numbers = [panel["id"] for panel in board["panels"]]
    assert len(set(numbers)) == len(numbers)
    taken = [
        (x, y)
        for place in (panel["gridPos"] for panel in board["panels"])
        for x, y in itertools.product(
            range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
        )
    ]
    assert len(set(taken)) == len(taken)
    assert max(x for x, _ in taken) < _COLUMNS


def test_panels_ask_sources_that_are_provisioned(dashboard):
    files = (MONITORING / "grafana" / "provisioning" / "datasources").glob("*.yml")
    provisioned = {(one["type"], one["uid"]) for path in files for one in read_yaml(path)["datasources"]}

    asked = {(panel["datasource"]["type"], panel["datasource"]["uid"]) for panel in panels(dashboard)}
    assert asked <= provisioned


def test_targets_have_their_own_letters(dashboard):
    for panel in panels(dashboard):
        letters = [target["refId"] for target in panel["targets"]]
        assert len(set(letters)) == len(letters) >= 1, panel["title"]


def test_every_metric_of_the_service_is_drawn():
    drawn = {name for path in DASHBOARDS for _, query in dashboard_queries(path) for name in series_in(query)}
    recorded = {rule["record"]: rule["expr"] for rule in rules("record")}
    for name in drawn & recorded.keys():
        drawn |= series_in(recorded[name])

    families = {name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") for name in drawn}
    assert {
        name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count") for name in SERVICE_SERIES
    } <= families
    of_the_service = {name for name in drawn if name.startswith("tfpipe_") and not name.startswith("tfpipe_train_")}
    assert of_the_service <= SERVICE_SERIES


def test_logs_are_found_by_request_id():
    (logs,) = (panel for path in DASHBOARDS for panel in panels(path) if panel["type"] == "logs")

    assert logs["datasource"]["uid"] == "loki"
    assert "$request_id" in logs["targets"][0]["expr"]
