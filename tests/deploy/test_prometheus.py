"""A real Prometheus scrapes real services and runs: every query finds what it asks for, every alert its trouble."""

import contextlib
from dataclasses import dataclass

import httpx
import pytest

from tests.deploy import troubles
from tests.deploy.monitoring_files import (
    DASHBOARDS,
    SERVICE_SERIES,
    dashboard_queries,
    rules,
    series_in,
)
from tests.deploy.prometheus_processes import Chat, Prometheus, alertmanager, chat, needs_prometheus, prometheus
from tests.serving.bundles import RED, image_bytes
from tests.serving.drifting import digits, digits_bundle, png
from tests.serving.registered import MODEL, Store
from tests.serving.servers import NO_TLS, PATIENCE_S, Process, app_of, serving, wait_for
from tfpipe.training.metrics_server import MetricsServer
from tfpipe.training.observers import StepRecord

pytestmark = [needs_prometheus, pytest.mark.system, pytest.mark.slow, pytest.mark.tensorflow]

# Series that nothing here has.
NOT_HERE = {"tfpipe_gpu_": "there is no GPU", "gpu:": "nor anything recorded of one"}
# Alerts whose trouble cannot be made here; promtool tests them with made-up series.
NOT_MADE = {"TfpipeGpuMemoryLow": "there is no GPU"}
# Nobody has a quarter of an hour here. Other waits are left out as well.
SOONER = {"TfpipeTrainingStalled": ("> 900", "> 1")}
# A machine that has other things to do starts six processes in its own time.
PATIENT_S = 300.0
# These come once everything has been taken away.
LAST = {"TfpipeNoReplicaReady", "TfpipeTargetDown", "TfpipeAlertmanagerDown"}


@dataclass
class Watched:
    """What runs while the tests look on."""

    prometheus: Prometheus
    alertmanager: str
    chat: Chat
    leaving: Process

    def fired(self, alert: str) -> bool:
        """Whether an alert has fired, be it over by now."""
        return bool(self.prometheus.query(f'count_over_time(ALERTS{{alertname="{alert}", alertstate="firing"}}[15m])'))

    def told(self) -> dict[str, str]:
        """What Alertmanager does with the alerts that fire now, by name: "active" or "suppressed"."""
        alerts = httpx.get(f"http://{self.alertmanager}/api/v2/alerts", timeout=PATIENCE_S, verify=NO_TLS).json()
        return {one["labels"]["alertname"]: one["status"]["state"] for one in alerts}


@contextlib.contextmanager
def asked_in_every_way(folder):
    """Two versions, one of them a shadow, each in a process of its own, asked well and badly; gives HOST:PORT."""
    store = Store(folder, [{}, {}])
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MLFLOW_TRACKING_URI", store.uri)
        with store.served(isolation="process", cache_bytes=1 << 20) as running:
            shares = {"shares": {"1": 1.0}, "shadow": "2"}
            assert running.client.put(f"/admin/models/{MODEL}/routing", json=shares).is_success

            def ask():
                answer = running.client.post("/predict", content=RED)
                running.client.post("/feedback", json={"request_id": answer.json()["request_id"], "label": "red"})
                running.client.post("/predict", content=b"no picture")

            with troubles.repeated(ask):
                yield f"127.0.0.1:{running.port}"


@contextlib.contextmanager
def asked_what_it_was_not_trained_on(folder):
    """Trained on dark digits, asked light ones, and pictures that are too small; gives HOST:PORT."""
    strange = [png(pixels) for pixels in digits(600, 720, inverted=True)]
    small = image_bytes((250, 10, 10), (2, 2))
    with serving(app_of(digits_bundle(folder))) as running:
        running.client.post("/predict/batch", files=[("files", ("x.png", one)) for one in strange]).raise_for_status()
        with troubles.repeated(lambda: running.client.post("/predict", content=small)):
            yield f"127.0.0.1:{running.port}"


@contextlib.contextmanager
def training():
    """A run that takes no step any more, and one that has not begun; gives HOST:PORT of each."""
    addresses = [troubles.free_address() for _ in range(2)]
    ports = [int(address.rpartition(":")[2]) for address in addresses]
    with MetricsServer("127.0.0.1", ports[0]) as stalled, MetricsServer("127.0.0.1", ports[1]):
        stalled.on_epoch_begin(0)
        stalled.on_step(StepRecord(1, 0.5, 64, 1.0, 1e-3, 0.01, 0.1))
        stalled.on_epoch_end(0, {f"{name}_share": 0.25 for name in ("input", "compute", "communication", "other")})
        yield addresses


@pytest.fixture(scope="module")
def watched(tmp_path_factory):
    """Every trouble at once."""
    made = tmp_path_factory.mktemp("made")
    with contextlib.ExitStack() as stack:
        enter = stack.enter_context
        room, address = enter(chat())
        # The first messages are refused: that is told, too.
        room.status = httpx.codes.NOT_FOUND
        teller = enter(alertmanager(tmp_path_factory.mktemp("alertmanager"), address))
        targets = {"tfpipe": [], "training": enter(training()), "alertmanager": [teller]}
        running = enter(prometheus(tmp_path_factory.mktemp("prometheus"), targets, teller, SOONER))
        replicas = []

        def scraped(address):
            replicas.append(address)
            running.scrape("tfpipe", replicas)

        # It is changed once its first answers were scraped, and finds out a minute later.
        strayed = enter(troubles.sound(made))
        scraped(troubles.address_of(strayed))
        wait_for(lambda: len(running.query("tfpipe_golden_max_abs_diff")) == 2, PATIENT_S)
        troubles.stray(made, strayed)
        # All start before one of them takes the processor.
        leaving, isolated, slow = (enter(start(made)) for start in (troubles.leaving, troubles.isolated, troubles.slow))
        for started in (leaving, isolated):
            scraped(troubles.address_of(started))
        scraped(enter(asked_in_every_way(tmp_path_factory.mktemp("store"))))
        scraped(enter(asked_what_it_was_not_trained_on(made / "digits")))
        everything = Watched(running, teller, room, leaving)
        # That minute is waited for before anything takes the processor.
        wait_for(lambda: everything.fired("TfpipeGoldenMismatch"), PATIENT_S)
        # Not before: an alert tells of its mean queue.
        scraped(troubles.address_of(slow))
        enter(troubles.crash(isolated))
        enter(troubles.overload(slow))
        yield everything


@pytest.fixture(
    params=[rule for rule in rules("alert") if rule["alert"] not in NOT_MADE.keys() | LAST],
    ids=lambda rule: rule["alert"],
)
def trouble(request):
    return request.param


def test_an_alert_fires_for_its_trouble(watched, trouble):
    wait_for(lambda: watched.fired(trouble["alert"]), PATIENT_S)


def test_what_fires_reaches_the_chat_with_the_page_that_says_what_to_do(watched):
    watched.chat.status = httpx.codes.OK

    wait_for(lambda: any("TfpipeQueueFull" in title for title, _ in watched.chat.messages))
    title, text = next(one for one in watched.chat.messages if "TfpipeQueueFull" in one[0])
    assert title == "FIRING critical: TfpipeQueueFull"
    assert "Runbook: docs/runbooks/queue-full.md" in text
    # A cause keeps back what follows from it.
    wait_for(lambda: watched.told().get("TfpipeQueueSlow") == "suppressed")


def expected_here(names):
    return not any(name.startswith(tuple(NOT_HERE)) for name in names)


def test_rules_ask_for_what_was_scraped(watched):
    there = watched.prometheus.names()

    asked = {name for rule in (*rules("alert"), *rules("record")) for name in series_in(rule["expr"])}
    assert {name for name in asked if expected_here([name])} - there == set()


def test_rules_are_evaluated_without_an_error(watched):
    assert watched.prometheus.rule_errors().keys() == {"Broken"}


def test_every_metric_of_the_service_was_scraped(watched):
    there = watched.prometheus.names()

    assert {name for name in SERVICE_SERIES if expected_here([name])} - there == set()


QUERIES = [
    pytest.param(query, id=f"{path.stem}: {title} {place}")
    for path in DASHBOARDS
    for place, (title, query) in enumerate(dashboard_queries(path))
]


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_of_a_dashboard_finds_something(watched, query):
    recorded = {rule["record"]: rule["expr"] for rule in rules("record")}
    asked = series_in(query) | {name for one in series_in(query) & recorded.keys() for name in series_in(recorded[one])}

    # A busy replica may miss a scrape.
    if expected_here(asked):
        wait_for(lambda: watched.prometheus.query(query))
    else:
        watched.prometheus.query(query)


def test_a_replica_that_is_killed_reaches_the_chat(watched):
    watched.leaving.stop()

    def texts():
        return [text for title, text in watched.chat.messages if title == "FIRING warning: TfpipeTargetDown"]

    wait_for(lambda: any(troubles.address_of(watched.leaving) in text for text in texts()))
    assert all("Runbook: docs/runbooks/target-down.md" in text for text in texts())


def test_where_no_replica_is_ready_nothing_else_is_told_of_the_service(watched):
    watched.chat.messages.clear()
    watched.prometheus.scrape("tfpipe", [troubles.address_of(watched.leaving)])

    wait_for(lambda: watched.told().get("TfpipeNoReplicaReady") == "active")
    wait_for(lambda: watched.told().get("TfpipeTargetDown") == "suppressed")
    wait_for(lambda: any("TfpipeNoReplicaReady" in title for title, _ in watched.chat.messages))


def test_an_alertmanager_that_is_gone_is_told_by_prometheus(watched):
    watched.prometheus.scrape("alertmanager", [troubles.free_address()])

    wait_for(lambda: watched.fired("TfpipeAlertmanagerDown"))
