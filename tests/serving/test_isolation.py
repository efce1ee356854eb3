"""Models in processes of their own, in a service under load: what kills or freezes one costs its batch alone."""

import os
import signal
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from serving.app import create_app
from serving.child import ChildModel
from serving.deployment import Deployment
from serving.settings import ServingSettings
from tests.serving.bundles import GREEN, RED, make_bundle
from tests.serving.servers import PATIENCE_S, Server, app_of, process, serving, wait_for
from tests.serving.test_child import cpu_ticks, has_ended


@pytest.fixture(scope="module")
def server(bundle, tmp_path_factory):
    # Slow enough to be met in the middle of a run.
    slow = make_bundle(tmp_path_factory.mktemp("bundles") / "slow", work=120)
    settings = ServingSettings(model=f"fast={bundle},slow={slow}", run_timeout_ms=60_000)
    with serving(create_app(settings)) as running:
        yield running


@pytest.fixture
def slow(server) -> ChildModel:
    model = child_of(server, "slow")
    wait_for(lambda: model.is_open)
    return model


def deployment_of(server: Server, name: str) -> Deployment:
    (deployment,) = (one for one in server.app.service.models if one.name == name)
    return deployment


def child_of(server: Server, name: str) -> ChildModel:
    sessions = deployment_of(server, name).engine.sessions
    assert sessions is not None
    (child,) = sessions.children
    return child


def ask(server: Server, name: str) -> httpx.Response:
    return httpx.post(
        f"http://127.0.0.1:{server.port}/predict", params={"model_name": name}, content=RED, timeout=PATIENCE_S
    )


class Load:
    """Requests to one model, one after the other, while a block lasts.

    Attributes:
        answers: Time and status of each.
    """

    def __init__(self, server: Server, name: str) -> None:
        self.answers: list[tuple[float, int]] = []
        self._server, self._name = server, name
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._ask)

    def __enter__(self) -> "Load":
        self._thread.start()
        wait_for(lambda: self.answers)
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _ask(self) -> None:
        while not self._is_over.is_set():
            status = ask(self._server, self._name).status_code
            self.answers.append((time.monotonic(), status))


def asked_and_busy(server: Server, model: ChildModel, pool: ThreadPoolExecutor) -> "Future[httpx.Response]":
    assert model.pid is not None
    pid, before = model.pid, cpu_ticks(model.pid)
    asked = pool.submit(ask, server, "slow")
    wait_for(lambda: cpu_ticks(pid) >= before + 3)
    return asked


def comes_back(server: Server) -> bool:
    answer = ask(server, "slow")
    if answer.status_code == 503:
        assert answer.json()["error"]["code"] in ("model_down", "breaker_open")
        assert answer.headers["retry-after"]
        return False
    assert answer.status_code == 200
    return True


def test_several_models_are_in_processes_of_their_own(server):
    fast, slow = child_of(server, "fast"), child_of(server, "slow")

    assert len({fast.pid, slow.pid, os.getpid()}) == 3
    assert ask(server, "fast").json()["predictions"][0]["label"] == "red"


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGSEGV])
def test_a_crash_costs_one_batch_and_other_models_go_on(server, slow, signum):
    with Load(server, "fast") as load, ThreadPoolExecutor(1) as pool:
        asked = asked_and_busy(server, slow, pool)
        os.kill(slow.pid or 0, signum)
        failed = asked.result()
        wait_for(lambda: comes_back(server))

    assert (failed.status_code, failed.json()["error"]["code"]) == (503, "model_crashed")
    assert failed.headers["retry-after"]
    assert {status for _, status in load.answers} == {200}


def test_a_service_whose_only_model_does_not_come_back_is_not_ready_until_it_does(bundle):
    with serving(create_app(ServingSettings(model=str(bundle), isolation="process"))) as running:
        model = child_of(running, "colours")
        # Once may happen: others would wait for it, not be refused.
        os.kill(model.pid or 0, signal.SIGKILL)
        wait_for(lambda: model.restarts == 1 and model.is_open)
        assert health_of(running) == (200, "ready", 200, 1)

        while not model.is_away:
            wait_for(lambda: model.is_open or model.is_away)
            if model.pid is not None:
                os.kill(model.pid, signal.SIGKILL)
            wait_for(lambda: not model.is_open)
        assert health_of(running) == (503, "loading", 503, 0)
        wait_for(lambda: model.is_open)
        assert health_of(running) == (200, "ready", 200, 1)


def health_of(server: Server) -> tuple[int, str, int, int]:
    health, ready = server.client.get("/health"), server.client.get("/v2/health/ready")
    (line,) = (line for line in server.client.get("/metrics").text.splitlines() if line.startswith("tfpipe_ready "))
    return health.status_code, health.json()["status"], ready.status_code, int(float(line.split()[1]))


def test_a_hang_costs_one_batch_and_other_models_go_on_meanwhile(server, slow):
    # An answer may be the tenth of which half failed, and close the way: what is asked next must reach the process.
    wait_for(lambda: comes_back(server) and not deployment_of(server, "slow").breaker.is_open)
    assert deployment_of(server, "slow").is_up
    # Longer than the time after which a batch no longer keeps others from running.
    run_timeout_s = 3.0 + 3 * deployment_of(server, "slow").batcher.room.pace.batch_s
    with Load(server, "fast") as load:
        os.kill(slow.pid or 0, signal.SIGSTOP)
        slow.run_timeout_s = run_timeout_s
        began_s = time.monotonic()
        failed = ask(server, "slow")
        ended_s, ready = time.monotonic(), httpx.get(f"http://127.0.0.1:{server.port}/v2/models/slow/ready")
        listed = httpx.post(f"http://127.0.0.1:{server.port}/v2/repository/index").json()
        (status,) = httpx.get(f"http://127.0.0.1:{server.port}/v1/models/slow").json()["model_version_status"]
        slow.run_timeout_s = PATIENCE_S
        wait_for(lambda: comes_back(server))

    assert (failed.status_code, failed.json()["error"]["code"]) == (504, "run_timeout")
    assert (ready.status_code, ready.json()) == (503, {"name": "slow", "ready": False})
    assert {one["name"]: one["state"] for one in listed} == {"fast": "READY", "slow": "UNAVAILABLE"}
    assert status["state"] == "LOADING"
    assert {status for _, status in load.answers} == {200}
    assert sum(began_s < when < ended_s for when, _ in load.answers) > 3


def test_memory_and_restarts_of_the_processes_are_measured(server, slow):
    text = httpx.get(f"http://127.0.0.1:{server.port}/metrics").text

    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("tfpipe_m"))
    assert float(values["tfpipe_memory_bytes"]) > 2**25
    assert float(values['tfpipe_model_memory_bytes{model="fast",version="3"}']) > 2**24
    assert float(values['tfpipe_model_restarts_total{model="fast",version="3"}']) == 0
    assert float(values['tfpipe_model_restarts_total{model="slow",version="3"}']) >= 1
    assert float(values['tfpipe_model_processes{model="slow",version="3"}']) == 1


def test_several_sessions_answer_side_by_side_and_end_with_the_service(bundle):
    with serving(app_of(bundle, isolation="process", sessions=2, threads=1)) as running:
        (deployment,) = running.app.service.models
        children = deployment.engine.sessions.children
        pids = [child.pid for child in children]
        labels = {ask(running, "colours").json()["predictions"][0]["label"] for _ in range(4)}

    assert len(set(pids)) == 2
    assert labels == {"red"}
    wait_for(lambda: all(has_ended(pid) for pid in pids))


def test_one_model_is_in_the_service_itself(bundle):
    with serving(app_of(bundle)) as running:
        (deployment,) = running.app.service.models
        answer = running.client.post("/predict", content=GREEN)

    assert deployment.engine.sessions.children == []
    assert answer.json()["predictions"][0]["label"] == "green"


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGKILL])
def test_the_processes_end_with_the_service(bundle, signum):
    with process("--model", str(bundle), isolation="process") as started:
        wait_for(started.is_ready)
        children = children_of(started.pid)
        answer = started.post("/predict", content=RED)

        started.signal(signum)
        code = started.wait()

    assert answer.status_code == 200
    assert len(children) == 1
    assert code == (0 if signum == signal.SIGTERM else -signum)
    wait_for(lambda: all(has_ended(pid) for pid in children))


def children_of(pid: int) -> list[int]:
    return [
        int(stat.parent.name)
        for stat in Path("/proc").glob("[0-9]*/stat")
        if stat.exists() and int(stat.read_text().rpartition(")")[2].split()[1]) == pid
    ]
