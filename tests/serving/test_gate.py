"""API keys and limits on a real service."""

import threading

import httpx
import pytest

from serving.gate import scope_of
from serving.keys_command import create_key
from tests.serving.bundles import RED
from tests.serving.servers import app_of, serving, wait_for


@pytest.mark.parametrize(
    ("path", "scope"),
    [
        ("/predict", "predict"),
        ("/predict/batch", "predict"),
        ("/feedback", "predict"),
        ("/v1/models/digits:predict", "predict"),
        ("/v2", "predict"),
        ("/v2/models/digits/infer", "predict"),
        ("/v2/repository/index", "predict"),
        ("/v2/repository/models/digits/load", "admin"),
        ("/v2/repository/models/digits/unload", "admin"),
        ("/v2/health/ready", None),
        ("/admin", "admin"),
        ("/admin/models/digits/routing", "admin"),
        ("/", None),
        ("/health/live", None),
        ("/metrics", None),
        ("/openapi.json", None),
        ("/predictions", None),
    ],
)
def test_a_path_needs_its_scope(path, scope):
    assert scope_of(path) == scope


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    path = tmp_path_factory.mktemp("keys") / "keys.yaml"
    return path, {
        "mobile": create_key(path, {"name": "mobile", "scopes": ["predict"]}),
        "slow": create_key(path, {"name": "slow", "scopes": ["predict"], "rate_limit": 0.01}),
        "single": create_key(path, {"name": "single", "scopes": ["predict"], "concurrency": 1}),
        "operator": create_key(path, {"name": "operator", "scopes": ["admin"]}),
    }


@pytest.fixture(scope="module")
def guarded(bundle, keys):
    with serving(app_of(bundle, api_keys_file=keys[0])) as server:
        yield server


def bearer(keys, name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {keys[1][name]}"}


def test_a_known_key_is_answered(guarded, keys):
    assert guarded.client.post("/predict", content=RED, headers=bearer(keys, "mobile")).status_code == 200
    assert guarded.client.post("/predict", content=RED, headers={"x-api-key": keys[1]["mobile"]}).status_code == 200


def test_without_a_key_401_says_how_to_ask(guarded):
    response = guarded.client.post("/predict", content=RED)

    assert (response.status_code, response.json()["error"]["code"]) == (401, "unauthorized")
    assert response.headers["www-authenticate"] == 'Bearer realm="tfpipe"'


def test_an_unknown_path_of_inference_is_refused_first(guarded):
    assert guarded.client.get("/predict/anything").status_code == 401


def test_the_wrong_scope_is_403(guarded, keys):
    response = guarded.client.post("/predict", content=RED, headers=bearer(keys, "operator"))

    assert (response.status_code, response.json()["error"]["code"]) == (403, "forbidden")
    assert 'scope="predict"' in response.headers["www-authenticate"]
    assert guarded.client.get("/admin/models", headers=bearer(keys, "mobile")).status_code == 403


def test_a_key_that_asks_too_often_is_told_when_to_come_back(guarded, keys):
    first, second = (guarded.client.post("/predict", content=RED, headers=bearer(keys, "slow")) for _ in range(2))

    assert (first.status_code, second.status_code) == (200, 429)
    assert second.json()["error"]["code"] == "rate_limited"
    assert 95 <= int(second.headers["retry-after"]) <= 100


def test_a_key_that_asks_too_much_at_once_is_refused_until_one_is_answered(guarded, keys):
    began, end = threading.Event(), threading.Event()

    def slowly():
        began.set()
        end.wait(20)
        yield RED

    statuses: list[int] = []

    def ask() -> None:
        response = httpx.post(
            f"http://127.0.0.1:{guarded.port}/predict", content=slowly(), headers=bearer(keys, "single"), timeout=30
        )
        statuses.append(response.status_code)

    thread = threading.Thread(target=ask)
    thread.start()
    began.wait(20)
    # Begun by the client; the service may not have seen it yet. Asked with the key itself, it could be the one refused.
    wait_for(lambda: "tfpipe_in_flight 1.0" in guarded.client.get("/metrics").text)
    refused = guarded.client.post("/predict", content=RED, headers=bearer(keys, "single"))
    end.set()
    thread.join()

    assert (refused.status_code, statuses) == (429, [200])
    assert guarded.client.post("/predict", content=RED, headers=bearer(keys, "single")).status_code == 200


@pytest.mark.parametrize("path", ["/health", "/health/live", "/metrics", "/", "/openapi.json"])
def test_health_metrics_and_documentation_need_no_key(guarded, path):
    assert guarded.client.get(path).status_code == 200


def test_refusals_are_counted_with_their_latency(guarded):
    guarded.client.post("/predict", content=RED)

    text = guarded.client.get("/metrics").text
    assert 'tfpipe_errors_total{model="colours",type="unauthorized",version="3"}' in text
    assert 'tfpipe_requests_total{code="401",model="colours",protocol="rest",version="3"}' in text


def test_without_keys_nobody_administers_and_anybody_predicts(client):
    response = client.get("/admin/models")

    assert response.status_code == 403
    assert "this one has none, so nobody may" in response.json()["error"]["message"]
    assert client.post("/predict", content=RED).status_code == 200


def test_without_keys_the_rate_is_for_all_together(bundle):
    with serving(app_of(bundle, rate_limit=0.01)) as server:
        statuses = [server.client.post("/predict", content=RED).status_code for _ in range(3)]

    assert statuses == [200, 429, 429]


def test_a_path_of_several_methods_names_them_all(guarded, keys):
    response = guarded.client.put("/admin/models/colours/versions/3", headers=bearer(keys, "operator"))

    assert (response.status_code, response.headers["allow"]) == (405, "POST, DELETE")
