"""`tfpipe registry canary` against a real service under load, and a version that fails while it serves."""

import contextlib
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import httpx
import pytest

from serving.app import create_app
from serving.settings import ServingSettings
from tests.serving.bundles import RED, make_bundle
from tests.serving.registered import MODEL, Store, metric
from tests.serving.servers import serving, wait_for
from tests.serving.test_engine import fake_engine
from tfpipe.core.errors import InferenceError
from tfpipe.core.routing import initial
from tfpipe.core.routing_changes import Origin, promote, split
from tfpipe.ledger import FolderLedger, MlflowLedger
from tfpipe.rollout.command import main as registry_command

PACE = ["--step-s", "0.2", "--poll-s", "0.2", "--step-requests", "20", "--steps", "0.3", "0.6"]
# Far apart, for a busy machine and few requests.
LIMITS = ["--max-errors", "0.2", "--max-slower", "0.4"]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Version 2 is as good as 1; 3 takes some tenths of a second."""
    return Store(tmp_path_factory.mktemp("store"), [{}, {}, {"work": 200}])


@contextlib.contextmanager
def loaded_with(url, headers):
    """Requests without end, each of which must be answered."""
    stop = threading.Event()

    def ask():
        with httpx.Client(base_url=url, timeout=30, headers=headers) as client:
            while not stop.is_set():
                assert client.post("/predict", content=RED).status_code == 200

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(ask) for _ in range(4)]
        try:
            yield
        finally:
            stop.set()
        for one in running:
            one.result()


@pytest.mark.parametrize(
    ("version", "code", "ended"), [("2", 0, "promote 2"), ("3", 3, "roll back from 3 to ")], ids=["good", "slow"]
)
def test_a_canary_decides_by_what_the_service_counts(store, monkeypatch, capsys, version, code, ended):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store.uri)
    monkeypatch.setenv("TFPIPE_ADMIN_KEY", store.admin_key)
    with store.served() as running:
        url = f"http://127.0.0.1:{running.port}"
        headers = dict(running.client.headers)
        with loaded_with(url, headers):
            given = registry_command(["canary", version, "--model", MODEL, "--replicas", url, *PACE, *LIMITS])

    output = capsys.readouterr()
    newest = MlflowLedger(store.uri).newest(MODEL)
    assert given == code, output
    assert output.out.startswith(ended)
    assert newest.what.startswith(ended)
    assert newest.why
    assert f"version {version} at 30 %" in output.err


def test_a_version_that_fails_again_and_again_is_left_alone_and_its_fallback_answers(tmp_path):
    folders = [make_bundle(tmp_path / version, version=version) for version in ("3", "4")]
    ledger = FolderLedger(tmp_path / "cache")
    by = Origin("ada", datetime.now(UTC))
    given = ledger.append(promote(initial(MODEL, "3"), "4", by))
    is_failing = threading.Event()

    def fail(rows):
        if is_failing.is_set():
            raise InferenceError("model: expected to be well, but it is not.")
        return rows[:, 0, 0]

    engines = [fake_engine(folders[0]), fake_engine(folders[1], model=fail)]
    models = ",".join(map(str, folders))
    app = create_app(
        ServingSettings(model=models, cache_dir=tmp_path / "cache", max_batch_size=1), open_engines=lambda: engines
    )
    with serving(app) as running:
        client = running.client

        def ask(query=""):
            answer = client.post(f"/predict{query}", content=RED)
            return answer.status_code, answer.headers.get("x-model-version")

        assert ask() == (200, "4")
        is_failing.set()
        failed = [ask()[0] for _ in range(30)]
        refused = client.post("/predict", content=RED)
        named = client.post("/predict?model_version=4", content=RED)
        assert failed.count(500) < 25
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "breaker_open")
        assert "retry-after" in refused.headers
        assert named.status_code == 503
        assert ask("?model_version=3") == (200, "3")
        is_failing.clear()
        # The next trial finds it well.
        wait_for(lambda: ask() == (200, "4"))
    ledger.append(split(given, {"4": 1.0}, by, fallback="3"))
    with serving(create_app(app.service.settings, open_engines=lambda: engines)) as running:
        client = running.client
        is_failing.set()
        answers = [ask() for _ in range(40)]
        assert answers[-1] == (200, "3")
        assert {status for status, _ in answers[-10:]} <= {200, 500}
        assert metric(client, "tfpipe_routed_total")[f'arm="fallback",model="{MODEL}",version="3"'] > 0
