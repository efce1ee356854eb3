"""Versions of a registered model while the service runs: followed, switched, split, rolled back."""

import gc
import json
import threading
import time
import weakref
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.serving.bundles import RED, SIDE
from tests.serving.registered import MODEL, Store, metric, routing_of
from tests.serving.servers import wait_for
from tfpipe.core.routing import initial
from tfpipe.core.routing_changes import Origin, promote, rollback, split
from tfpipe.ledger import MlflowLedger
from tfpipe.rollout.command import main as registry_command
from tfpipe.rollout.evidence import read_counts


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Versions 1, 2 and 3 can be served; 4 does not give training's golden answers."""
    return Store(tmp_path_factory.mktemp("store"), [{}, {}, {}, {"golden_offset": 0.5}])


@pytest.fixture(scope="module")
def server(store):
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("MLFLOW_TRACKING_URI", store.uri)
        with store.served() as running:
            yield running


@pytest.fixture(scope="module")
def at_first():
    """Identifiers of the documents by which version 1 has all traffic."""
    return set()


@pytest.fixture
def client(server, at_first):
    """Version 1 has all traffic, and nothing is withdrawn."""
    # A change takes MLflow a second of processor time: none where the test before made none.
    if routing_of(server.client).get("id") not in at_first:
        for version in ("3", "2", "1"):
            document = put(server.client, {"promote": version})
        at_first.add(document["id"])
    return server.client


def put(client, body):
    answer = client.put(f"/admin/models/{MODEL}/routing", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["routing"]


def roll_back(client, **body):
    answer = client.post(f"/admin/models/{MODEL}/rollback", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()["routing"]


def ask(client, query="", **headers):
    return client.post(f"/predict{query}", content=RED, headers=headers)


def ask_rows(client):
    """By the binary tensor extension, as the fast path takes it."""
    rows = np.zeros((1, SIDE, SIDE, 3), np.float32)
    tensor = {"name": "input", "datatype": "FP32", "shape": rows.shape, "parameters": {"binary_data_size": rows.nbytes}}
    text = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    headers = {"Inference-Header-Content-Length": str(len(text))}
    return client.post(f"/v2/models/{MODEL}/infer", content=text + rows.tobytes(), headers=headers)


def version_of(client, query="", **headers):
    answer = ask(client, query, **headers)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-model-version"] == answer.json()["model_version"]
    return answer.json()["model_version"]


@pytest.fixture(scope="module")
def folders(store, tmp_path_factory):
    """The same versions, served from their folders: changes take no registry, and so no time."""
    model = ",".join(str(store.folder / f"bundle-{index}") for index in range(3))
    with store.served(model=model, cache_dir=tmp_path_factory.mktemp("cache")) as running:
        yield running.client


CHANGES = st.lists(
    st.tuples(st.sampled_from(["promote", "split", "rollback"]), st.sampled_from("123"), st.sampled_from("123")),
    max_size=2,
)


def changed(client, kind, version, other):
    """One change, or none where it is refused."""
    path = f"/admin/models/{MODEL}"
    if kind == "promote":
        return client.put(f"{path}/routing", json={"promote": version})
    if kind == "split":
        shares = {version: 0.5, other: 0.5} if version != other else {version: 1.0}
        return client.put(f"{path}/routing", json={"shares": shares})
    return client.post(f"{path}/rollback", json={"version": version})


# Feature: deep-learning-pipeline, Property 23: Version routing
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=CHANGES, named=st.sampled_from(["1", "2", "3", "4", "9", ""]), key=st.text("ab", max_size=3))
def test_a_request_that_names_a_version_is_answered_by_it_or_refused(folders, changes, named, key):
    client = folders
    for change in changes:
        changed(client, *change)

    answer = ask(client, f"?model_version={named}", **{"X-Routing-Key": key})

    if answer.status_code == 200:
        assert answer.json()["model_version"] == answer.headers["x-model-version"] == named
    else:
        assert answer.status_code == 404
        assert answer.json()["error"]["code"] == "unknown_model"


# Feature: deep-learning-pipeline, Property 26: Rollback
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=CHANGES, first=st.sampled_from("123"), second=st.sampled_from("123"), again=st.booleans())
def test_after_a_rollback_no_request_reaches_the_version_until_it_is_promoted(folders, changes, first, second, again):
    client = folders
    for change in changes:
        changed(client, *change)
    put(client, {"promote": second})
    before = put(client, {"promote": first})
    if first == second and len(before["promoted"]) < 2:
        return

    routing = roll_back(client)

    assert first in routing["withdrawn"]
    assert first not in routing["shares"]
    assert version_of(client) in routing["shares"]
    assert version_of(client, **{"X-Routing-Key": "ada"}) in routing["shares"]
    refused = ask(client, f"?model_version={first}")
    assert refused.status_code == 404
    assert "was rolled back from" in refused.json()["error"]["message"]
    if again:
        put(client, {"promote": first})
        assert version_of(client, f"?model_version={first}") == first


def test_a_service_begins_by_its_champion_and_follows_the_ledger(store, monkeypatch, tmp_path):
    own = Store(tmp_path, [{}, {}])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", own.uri)
    with own.served() as running:
        client = running.client
        assert version_of(client) == "1"
        assert routing_of(client)["revision"] == 0
        ledger = MlflowLedger(own.uri)

        first = ledger.append(promote(initial(MODEL, "1"), "2", Origin("ada", datetime.now(UTC))))
        wait_for(lambda: version_of(client) == "2")
        ledger.append(rollback(first, Origin("ada", datetime.now(UTC))))
        wait_for(lambda: version_of(client) == "1")

        assert ask(client, "?model_version=2").status_code == 404
        assert metric(client, "tfpipe_routing_revision") == {f'model="{MODEL}"': 2.0}
    with own.served() as running:
        # One that starts goes by the document at once.
        assert routing_of(running.client)["revision"] == 2
        assert ask(running.client, "?model_version=2").status_code == 404


def test_traffic_goes_as_the_split_says_and_keys_stick(client):
    put(client, {"shares": {"1": 0.7, "2": 0.3}})
    before = metric(client, "tfpipe_routed_total")

    by_chance = Counter(version_of(client) for _ in range(300))
    by_key = [version_of(client, **{"X-Routing-Key": f"user-{index}"}) for index in range(100)]
    after = metric(client, "tfpipe_routed_total")

    assert by_chance.keys() == {"1", "2"}
    assert 50 < by_chance["2"] < 135
    assert [version_of(client, **{"X-Routing-Key": f"user-{index}"}) for index in range(100)] == by_key
    assert 10 < by_key.count("2") < 55
    counted = {labels: after[labels] - before.get(labels, 0.0) for labels in after}
    assert counted[f'arm="champion",model="{MODEL}",version="1"'] == by_chance["1"] + by_key.count("1")
    assert counted[f'arm="split",model="{MODEL}",version="2"'] == by_chance["2"] + by_key.count("2")


def test_switches_splits_and_rollbacks_under_load_lose_nothing(server, client, store):
    put(client, {"promote": "2"})
    stop = threading.Event()
    # Which versions may answer what is sent from now on.
    allowed = [("2",)]

    def load(index):
        outcomes = []
        with httpx.Client(base_url=client.base_url, headers=client.headers, timeout=30) as own:
            # Half of them on the fast path, which has no compressed answers.
            del own.headers["accept-encoding"]
            while not stop.is_set():
                before = len(allowed) - 1
                answer = ask_rows(own) if index % 2 else ask(own, **{"X-Routing-Key": f"{index}-{len(outcomes)}"})
                outcomes.append((answer.status_code, answer.headers.get("x-model-version"), before, len(allowed)))
        return outcomes

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(load, index) for index in range(4)]
        for change, versions in (
            ({"promote": "3"}, ("3",)),
            ({"shares": {"3": 0.5, "1": 0.5}}, ("3", "1")),
            (None, ("3",)),
            ({"promote": "2"}, ("2",)),
            (None, ("3",)),
        ):
            time.sleep(0.3)  # load
            # While it is being made, both hold.
            allowed.append((*allowed[-1], *versions))
            put(client, change) if change else roll_back(client)
            allowed.append(versions)
        time.sleep(0.3)  # load
        stop.set()
        outcomes = [outcome for one in running for outcome in one.result()]

    assert len(outcomes) > 100
    assert {status for status, *_ in outcomes} == {200}
    wrong = [one for one in outcomes if one[1] not in {v for held in allowed[one[2] : one[3]] for v in held}]
    assert wrong == []


def test_a_rollback_is_one_command_after_which_no_request_reaches_the_version(
    server, client, store, capsys, monkeypatch
):
    put(client, {"promote": "2"})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    monkeypatch.setenv("TFPIPE_ADMIN_KEY", store.admin_key)
    url = f"http://127.0.0.1:{server.port}"
    has_returned, stop = threading.Event(), threading.Event()

    def load(index):
        outcomes = []
        with httpx.Client(base_url=client.base_url, headers=client.headers, timeout=30) as own:
            del own.headers["accept-encoding"]
            while not stop.is_set():
                is_after = has_returned.is_set()
                answer = ask_rows(own) if index % 2 else ask(own, **{"X-Routing-Key": f"{index}-{len(outcomes)}"})
                outcomes.append((is_after, answer.status_code, answer.headers.get("x-model-version")))
        return outcomes

    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(load, index) for index in range(2)]
        time.sleep(0.2)  # load
        code = registry_command(["rollback", "--model", MODEL, "--replicas", url, "--why", "it fails"])
        has_returned.set()
        time.sleep(0.2)  # load
        stop.set()
        counted = Counter(outcome for one in running for outcome in one.result())

    output = capsys.readouterr().out
    assert code == 0
    assert output.startswith("revision ")
    assert output.endswith(f"confirmed by {url}\n")
    # Between the switch and the return it may be either.
    assert {(False, 200, "2"), (True, 200, "1")} <= set(counted) <= {
        (False, 200, "2"), (False, 200, "1"), (True, 200, "1"),
    }, counted  # fmt: skip
    newest = MlflowLedger(store.uri).newest(MODEL)
    assert (newest.why, newest.withdrawn[-1]) == ("it fails", "2")


def test_one_version_alone_is_called_champion_whatever_was_promoted(client):
    for version in ("1", "2", "1", "3"):
        put(client, {"promote": version})

        models = client.get("/health").json()["models"]

        assert [one["version"] for one in models if "champion" in one["aliases"]] == [version]


def test_a_rollback_is_pushed_to_every_other_replica(server, client, store, capsys, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    monkeypatch.setenv("TFPIPE_ADMIN_KEY", store.admin_key)
    # It would not look for a minute.
    with store.served(registry_poll_ms=60_000) as other:
        put(client, {"promote": "2"})
        urls = [f"http://127.0.0.1:{port}" for port in (server.port, other.port)]
        code = registry_command(["rollback", "--model", MODEL, "--replicas", ",".join(urls)])
        assert code == 0
        assert ask(other.client, "?model_version=2").status_code == 404
        assert version_of(other.client) == version_of(client) == "1"
        assert routing_of(other.client)["id"] == routing_of(client)["id"]


def test_a_version_that_fails_its_proof_never_takes_traffic(client, store):
    answer = client.put(f"/admin/models/{MODEL}/routing", json={"promote": "4"})

    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conflict")
    assert "golden samples" in answer.json()["error"]["message"]
    assert version_of(client) == "1"
    assert MlflowLedger(store.uri).newest(MODEL).champion == "1"


def test_a_document_that_cannot_be_gone_by_leaves_the_one_before_in_place(client, store):
    ledger = MlflowLedger(store.uri)
    held = ledger.newest(MODEL)
    by = Origin("ada", datetime.now(UTC))

    bad = ledger.append(split(held, {"1": 0.5, "4": 0.5}, by))

    def problem():
        (model,) = client.get("/admin/models").json()["models"]
        return model["problem"]

    wait_for(problem)
    assert "golden samples" in problem()
    assert {version_of(client) for _ in range(10)} == {"1"}
    ledger.append(promote(bad, "2", by))
    wait_for(lambda: version_of(client) == "2")
    wait_for(lambda: problem() is None)


def test_a_version_that_is_unloaded_leaves_memory_whatever_was_asked_of_it(server, client):
    path = f"/admin/models/{MODEL}/versions/3"
    assert client.post(path).status_code == 200
    engine = weakref.ref(server.app.service.models.get(MODEL, "3").engine)
    # Nothing but the service itself may collect what errors leave behind.
    gc.disable()
    try:
        for body in (RED, b"no image", RED):
            client.post("/predict?model_version=3", content=body)
        assert client.delete(path).status_code == 200

        wait_for(lambda: engine() is None)
    finally:
        gc.enable()


def test_versions_are_loaded_and_unloaded_by_name(client):
    path = f"/admin/models/{MODEL}/versions"
    roll_back(client, version="1") if routing_of(client)["shares"] != {"1": 1.0} else None
    loaded = client.post(f"{path}/3")
    named = version_of(client, "?model_version=3")
    unloaded = client.delete(f"{path}/3")

    assert (loaded.status_code, named, unloaded.status_code) == (200, "3", 200)
    assert ask(client, "?model_version=3").status_code == 404
    assert client.delete(f"{path}/3").status_code == 404
    assert client.post(f"{path}/9").json()["error"]["code"] == "unknown_model"
    assert client.post(f"{path}/4").status_code == 409
    busy = client.delete(f"{path}/1")
    assert (busy.status_code, busy.json()["error"]["code"]) == (409, "conflict")
    assert "but it has 100 %" in busy.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("PUT", "routing", b"{", 400),
        ("PUT", "routing", b"[]", 400),
        ("PUT", "routing", b"{}", 400),
        ("PUT", "routing", b'{"colour": 1}', 400),
        ("PUT", "routing", b'{"shares": {"1": "all"}}', 400),
        ("PUT", "routing", b'{"shares": {"1": 0.5}}', 400),
        ("PUT", "routing", b'{"shares": {"1": 1}, "sticky": "cookie"}', 400),
        ("PUT", "routing", b'{"shares": {"1": 1}, "shadow": 2}', 400),
        ("PUT", "routing", b'{"promote": ""}', 400),
        ("PUT", "routing", b'{"slices": []}', 400),
        ("PUT", "routing", b'{"promote": "9"}', 404),
        ("POST", "rollback", b'{"version": 1}', 400),
        ("POST", "rollback", b'{"why": "' + b"x" * 1001 + b'"}', 400),
        ("GET", "rollback", b"", 405),
    ],
)
def test_a_change_that_is_none_is_refused(client, method, path, body, status):
    answer = client.request(method, f"/admin/models/{MODEL}/{path}", content=body)

    assert answer.status_code == status
    assert answer.json()["error"].keys() == {"code", "message", "details", "request_id"}
    assert client.put("/admin/models/nobody/routing", json={"promote": "1"}).status_code == 404


def test_nobody_administers_without_the_key(server):
    for headers, status in (({}, 401), ({"Authorization": "Bearer " + "x" * 40}, 401)):
        bare = httpx.get(f"http://127.0.0.1:{server.port}/admin/models", headers=headers)
        assert bare.status_code == status


def test_the_registry_away_changes_nothing_but_what_it_is_asked(tmp_path, monkeypatch):
    own = Store(tmp_path, [{}, {}])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", own.uri)
    with own.served() as running:
        database = tmp_path / "mlflow.db"
        database.rename(tmp_path / "away.db")
        (model,) = running.client.get("/admin/models").json()["models"]

        wait_for(lambda: running.client.get("/admin/models").json()["models"][0]["problem"])
        refused = running.client.put(f"/admin/models/{MODEL}/routing", json={"promote": "2"})

        assert version_of(running.client) == "1"
        assert refused.status_code in (400, 404, 503)
        (tmp_path / "away.db").rename(database)
        wait_for(lambda: running.client.get("/admin/models").json()["models"][0]["problem"] is None)
        put(running.client, {"promote": "2"})
        assert version_of(running.client) == "2"
        assert model["name"] == MODEL


def test_shadow_traffic_is_compared_and_not_returned(client):
    put(client, {"shares": {"1": 1.0}, "shadow": "2"})
    wait_for(lambda: version_of(client) == "1" and metric(client, "tfpipe_shadow_total"))

    def compared():
        return metric(client, "tfpipe_shadow_total").get(f'model="{MODEL}",result="same",version="2"', 0.0)

    before = compared()
    for _ in range(5):
        assert version_of(client) == "1"
        time.sleep(0.05)  # room for the shadow
    wait_for(lambda: compared() > before)
    put(client, {"shares": {"1": 1.0}, "shadow": None})
    stopped = sum(metric(client, "tfpipe_shadow_total").values())
    time.sleep(0.1)
    version_of(client)
    assert sum(metric(client, "tfpipe_shadow_total").values()) <= stopped + 1


def test_feedback_is_counted_by_the_version_that_answered(client):
    before = metric(client, "tfpipe_feedback_total")
    ids = [ask(client).json()["request_id"] for _ in range(3)]

    answers = [client.post("/feedback", json={"request_id": one, "label": "red"}) for one in ids[:2]]
    wrong = client.post("/feedback", json={"request_id": ids[2], "label": "blue"})
    again = client.post("/feedback", json={"request_id": ids[2], "label": "blue"})

    assert [answer.status_code for answer in (*answers, wrong)] == [202, 202, 202]
    assert wrong.json() == {"request_id": ids[2], "correct": False}
    assert (again.status_code, again.json()["error"]["code"]) == (404, "unknown_request")
    after = metric(client, "tfpipe_feedback_total")
    labels = f'model="{MODEL}",routed="true",version="1"'
    assert after[f'correct="true",{labels}'] - before.get(f'correct="true",{labels}', 0) == 2
    assert after[f'correct="false",{labels}'] - before.get(f'correct="false",{labels}', 0) == 1


def evidence(client, version):
    return read_counts(client.get("/metrics").text, MODEL).get(version, {})


def test_requests_that_name_their_version_are_no_evidence_in_any_protocol(client):
    put(client, {"shares": {"1": 0.5, "2": 0.5}})
    pixels = {"name": "pixels", "datatype": "UINT8", "shape": [1, 1, 1, 3], "data": [250, 10, 10]}
    columns = {"signature_name": "pixels", "inputs": {"pixels": [[[[250, 10, 10]]]]}}

    def ask_each(version):
        """One request in each protocol, which names the version where there is one; gives what answered."""
        path = f"/versions/{version}" if version else ""
        answers = [
            ask(client, f"?model_version={version}" if version else ""),
            client.post(f"/v2/models/{MODEL}{path}/infer", json={"inputs": [pixels]}),
            client.post(f"/v1/models/{MODEL}{path}:predict", json=columns),
        ]
        assert [answer.status_code for answer in answers] == [200, 200, 200], [answer.text for answer in answers]
        client.post("/feedback", json={"request_id": answers[0].headers["x-request-id"], "label": "red"})
        return [answer.headers["x-model-version"] for answer in answers]

    def requests():
        return sum(evidence(client, version).get("requests", 0) for version in "12")

    before = {version: evidence(client, version) for version in "12"}
    for version in "1212":
        assert set(ask_each(version)) == {version}
    ask(client, "?alias=champion")
    assert {version: evidence(client, version) for version in "12"} == before
    counted = requests()
    ask_each("")
    assert requests() == counted + 3
    assert sum(evidence(client, one).get("right", 0) - before[one].get("right", 0) for one in "12") == 1


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{}", b'{"request_id": 1, "label": "red"}', b'{"request_id": "a"}', b'{"a": 1}',
        b'{"request_id": "a", "label": "b", "labels": ["b"]}', b'{"request_id": "a", "labels": "b"}',
        b'{"request_id": "a", "labels": [1]}',
    ],
)  # fmt: skip
def test_feedback_that_is_none_is_refused(client, body):
    answer = client.post("/feedback", content=body)

    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")


def test_a_service_of_folders_keeps_its_routing_in_its_cache(store, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folders = ",".join(str(store.folder / f"bundle-{index}") for index in (0, 1))
    with store.served(model=folders, cache_dir=tmp_path) as running:
        assert version_of(running.client) == "1"
        put(running.client, {"promote": "2"})
        assert version_of(running.client) == "2"
    with store.served(model=folders, cache_dir=tmp_path) as running:
        assert version_of(running.client) == "2"
        assert roll_back(running.client)["shares"] == {"1": 1.0}
    assert [file.name for file in (tmp_path / "routing" / f"model={MODEL}").iterdir()] == [
        "00000001.json", "00000002.json",
    ]  # fmt: skip


def test_a_question_about_a_model_is_no_request_that_was_routed(client):
    before = metric(client, "tfpipe_routed_total")

    about = [client.get(f"/{path}/models/{MODEL}") for path in ("v1", "v2")]

    assert [answer.status_code for answer in about] == [200, 200]
    assert metric(client, "tfpipe_routed_total") == before


def test_keys_stick_in_every_protocol(client):
    put(client, {"shares": {"1": 0.5, "2": 0.5}})
    body = {"inputs": [{"name": "input", "datatype": "FP32", "shape": [1, 8, 8, 3], "data": [0.5] * 192}]}
    columns = {"signature_name": "tensor", "inputs": {"input": [[[[0.5] * 3] * 8] * 8]}}

    for index in range(8):
        key = {"X-Routing-Key": f"user-{index}"}
        answers = [
            client.post(f"/v2/models/{MODEL}/infer", json=body, headers=key),
            client.post(f"/v1/models/{MODEL}:predict", json=columns, headers=key),
        ]
        assert [answer.status_code for answer in answers] == [200, 200], [answer.text for answer in answers]
        assert {answer.headers["x-model-version"] for answer in answers} == {version_of(client, **key)}
