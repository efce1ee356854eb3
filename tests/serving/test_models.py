"""Several models, and several versions of each, side by side."""

import asyncio
import gc
import socket
import weakref

import pytest

from serving.app import create_app
from serving.settings import ServingSettings
from tests.serving.bundles import RED, make_bundle
from tests.serving.servers import serving, wait_for
from tfpipe.core.errors import ConfigError


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    folder = tmp_path_factory.mktemp("several")
    make_bundle(folder / "three", version="3")
    make_bundle(folder / "four", version="4")
    make_bundle(folder / "shades", name="shades", version=None)
    return folder


@pytest.fixture(scope="module")
def client(folders):
    models = ",".join(str(folders / name) for name in ("three", "four")) + f", tones={folders / 'shades'}"
    with serving(create_app(ServingSettings(model=models))) as server:
        yield server.client


@pytest.mark.parametrize(
    ("query", "answered"),
    [
        ("model_name=colours", ("colours", "3")),
        ("model_name=colours&model_version=4", ("colours", "4")),
        ("model_name=tones", ("tones", None)),
    ],
)
def test_a_request_is_answered_by_what_it_names(client, query, answered):
    answer = client.post(f"/predict?{query}", content=RED)

    assert (answer.json()["model_name"], answer.json()["model_version"]) == answered
    assert answer.headers["x-model-name"] == answered[0]
    assert answer.headers.get("x-model-version") == answered[1]


@pytest.mark.parametrize(
    ("query", "sentence"),
    [
        ("", "model_name: expected one of 'colours', 'tones', received none."),
        ("?model_name=shades", "model_name: expected 'colours' or 'tones', received 'shades'."),
        ("?model_name=colours&model_version=5", "expected '3' or '4' of model 'colours', received '5'."),
        ("?model_name=tones&model_version=1", "expected none (it is not registered) of model 'tones', received '1'."),
        ("?model_name=colours&alias=champion", "alias: expected one of [] of model 'colours', received 'champion'."),
    ],
)
def test_what_is_not_there_is_404_and_says_what_is(client, query, sentence):
    answer = client.post(f"/predict{query}", content=RED)

    assert answer.status_code == 404
    assert sentence in answer.json()["error"]["message"]


def test_health_lists_every_version(client):
    models = client.get("/health").json()["models"]

    assert [(model["name"], model["version"]) for model in models] == [
        ("colours", "3"), ("colours", "4"), ("tones", None),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("models", "sentence"),
    [
        ("{0}/three,{0}/three", "expected each version once, received 'colours', version 3, twice"),
        ("{0}/three,", "expected a model, or several with commas between them"),
    ],
)
def test_a_list_that_cannot_be_served_is_refused(folders, models, sentence):
    failures: list[Exception] = []
    app = create_app(ServingSettings(model=models.format(folders)), on_load_error=failures.append)

    with serving(app, until="loading"):
        wait_for(lambda: failures)

    assert isinstance(failures[0], ConfigError)
    assert sentence in str(failures[0])


def test_a_client_that_hangs_up_is_counted_and_its_work_given_up(slow_bundle):
    with serving(create_app(ServingSettings(model=str(slow_bundle)))) as server:
        head = f"POST /predict HTTP/1.1\r\nHost: here\r\nContent-Length: {len(RED)}\r\n\r\n".encode()
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(head + RED)
        counted = 'tfpipe_errors_total{model="colours",type="client_gone",version="3"} 1.0'
        wait_for(lambda: counted in server.client.get("/metrics").text)

        assert server.client.post("/predict", content=RED).status_code == 200


async def test_a_version_that_is_closed_leaves_memory_though_no_garbage_is_collected(folders):
    app = create_app(ServingSettings(model=str(folders / "three")))
    scope = {"type": "http", "method": "POST", "path": "/predict", "headers": [], "query_string": b""}
    statuses = []

    async def receive():
        return {"type": "http.request", "body": RED, "more_body": False}

    async def send(message):
        statuses.append(message.get("status"))

    await app.service.load()
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            await app(scope, receive, send)
        deployment = next(iter(app.service.models))
        engine = weakref.ref(deployment.engine)
        app.service.models.take(deployment.name, deployment.version)
        await deployment.close()
        del deployment
        # The loop holds what the task that it ran last was given.
        await asyncio.sleep(0.1)
        gone = engine() is None
    finally:
        gc.enable()

    assert [status for status in statuses if status] == [200, 200, 200]
    assert gone
