"""The sessions of a version behind one `run`."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from serving.app import create_app
from serving.engine import Engine
from serving.errors import NotEnoughMemoryError
from serving.memory import needed_bytes, require_memory
from serving.sessions import Plan, Sessions, opener, require_provider
from serving.settings import ServingSettings
from serving.source import ServedBundle
from tests.serving.bundles import RED
from tests.serving.servers import serving, wait_for
from tfpipe.core.bundle import open_bundle
from tfpipe.core.errors import ConfigError
from tfpipe.inference.opening import open_inference, open_model
from tfpipe.ort import OnnxModel


class Stuck:
    """A session that does not end while its gate is closed."""

    def __init__(self, model: OnnxModel) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.runs = 0
        self._model = model
        self.provider, self.arithmetic, self.on_cpu = model.provider, model.arithmetic, model.on_cpu
        self.input_names, self.output_names = model.input_names, model.output_names

    def run(self, inputs, outputs=None):
        self.runs += 1
        self.gate.wait(60)
        return self._model.run(inputs, outputs)


@pytest.fixture
def opened(bundle) -> list[Stuck]:
    return []


@pytest.fixture
def open_one(bundle, opened):
    checked = open_bundle(bundle)

    def open_it() -> Stuck:
        opened.append(Stuck(open_model(checked, checked.variant("fp32"), provider="cpu", threads=1)))
        return opened[-1]

    return open_it


ROWS = {"input": np.zeros((1, 8, 8, 3), np.float32)}


def test_sessions_take_turns(open_one, opened):
    sessions = Sessions(open_one, 3)

    for _ in range(6):
        sessions.run(ROWS)

    assert [one.runs for one in opened] == [2, 2, 2]


def test_another_is_opened_in_the_place_of_one_that_hangs(open_one, opened):
    sessions = Sessions(open_one, 1)
    opened[0].gate.clear()
    with ThreadPoolExecutor(1) as pool:
        stuck = pool.submit(sessions.run, ROWS)
        wait_for(lambda: opened[0].runs)

        assert sessions.run(ROWS)
        assert sessions.run(ROWS)

        opened[0].gate.set()
        stuck.result()
    assert [one.runs for one in opened] == [1, 2]
    sessions.run(ROWS)
    assert [one.runs for one in opened] == [1, 3]


def test_a_session_in_the_service_that_hangs_is_given_up_and_opened_anew(bundle, open_one, opened):
    checked = open_bundle(bundle)
    engine = Engine(
        ServedBundle(checked, "colours", "3", ()),
        checked.variant("fp32"),
        inference=open_inference(checked, threads=1),
        model=Sessions(open_one, 1),
        max_batch_size=4,
    )
    with serving(create_app(ServingSettings(run_timeout_ms=300), open_engines=lambda: [engine])) as running:
        opened[0].gate.clear()

        failed = running.client.post("/predict", content=RED)
        answered = running.client.post("/predict", content=RED)

        opened[0].gate.set()
    assert (failed.status_code, failed.json()["error"]["code"]) == (504, "run_timeout")
    assert answered.json()["predictions"][0]["label"] == "red"
    assert len(opened) == 2


@pytest.mark.parametrize("isolation", ["inline", "process"])
def test_sessions_answer_as_a_single_one_does(bundle, isolation):
    checked = open_bundle(bundle)
    way = {"provider": "cpu", "arithmetic": "float32", "threads": 1, "engines_dir": None}
    sessions = opener("colours/3", Plan(isolation, 2))(checked, checked.variant("int8"), **way)
    one = open_model(checked, checked.variant("int8"), provider="cpu", threads=1)

    answers = [sessions.run(ROWS)["probabilities"] for _ in range(3)]
    sessions.close()

    assert all(np.array_equal(answer, one.run(ROWS)["probabilities"]) for answer in answers)


@pytest.mark.parametrize(
    ("provider", "on_cpu", "lacking"),
    [
        ("auto", ("Einsum",), None),
        ("cpu", (), None),
        ("cuda", ("Gather", "Shape"), None),
        ("cuda", ("Einsum", "Shape"), "Einsum"),
        ("openvino", ("Einsum", "Shape"), "Einsum, Shape"),
        ("tensorrt", (), None),
    ],
)
def test_the_provider_asked_for_runs_all_of_the_model_or_it_is_refused(provider, on_cpu, lacking):
    if lacking is None:
        require_provider("digits/3", provider, on_cpu)
        return
    with pytest.raises(ConfigError, match=f"but it leaves {lacking} to the CPU provider"):
        require_provider("digits/3", provider, on_cpu)


def test_what_does_not_fit_into_the_memory_is_refused():
    given = {"provider": "cpu", "sessions": 2, "isolation": "inline"}
    needed = needed_bytes(2**20, **given)

    require_memory("large/1", 2**20, **given, available=lambda: needed)
    require_memory("large/1", 2**20, **given, available=lambda: None)
    with pytest.raises(
        NotEnoughMemoryError, match=r"expected at most 3 MiB, .* 2 sessions need about 4 MiB"
    ) as refused:
        require_memory("large/1", 2**20, **given, available=lambda: needed - 1)

    assert refused.value.details == {"needed_bytes": needed, "available_bytes": needed - 1}


def test_sessions_in_processes_need_more_memory_each():
    one = needed_bytes(2**30, provider="cpu", sessions=1, isolation="process")

    assert needed_bytes(2**30, provider="cpu", sessions=3, isolation="process") == 3 * one
    assert needed_bytes(2**30, provider="cpu", sessions=1, isolation="inline") < one
    assert needed_bytes(2**30, provider="openvino", sessions=1, isolation="inline") > 3 * 2**30 - 1
