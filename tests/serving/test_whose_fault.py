"""What fails by the doing of an input is the client's to mend, and no reason to leave a version alone."""

import math
import threading

import numpy as np
import pytest

from serving.app import create_app
from serving.settings import ServingSettings
from tests.serving.bundles import RED, SIDE
from tests.serving.servers import app_of, serving
from tests.serving.tensor_bundles import make_lookup_bundle
from tests.serving.test_engine import open_engine
from tfpipe.core.errors import InferenceError
from tfpipe.inference.opening import open_model

OFTEN = 30
"""More requests than open a breaker."""


@pytest.fixture(scope="module", params=["inline", "process"])
def lookup(request, tmp_path_factory):
    folder = make_lookup_bundle(tmp_path_factory.mktemp("bundles") / "lookup")
    with serving(app_of(folder, isolation=request.param)) as running:
        yield running.client


def look_up(client, place, left=(1.0, 2.0), right=(3.0, 4.0), version="v2"):
    if version == "v1":
        body = {"inputs": {"place": [place], "left": [list(left)], "right": [list(right)]}}
        return client.post("/v1/models/lookup:predict", json=body)
    arrays = (("place", "INT64", [place]), ("left", "FP32", list(left)), ("right", "FP32", list(right)))
    inputs = [
        {"name": name, "datatype": kind, "shape": [1, len(data)] if name != "place" else [1], "data": data}
        for name, kind, data in arrays
    ]
    return client.post("/v2/models/lookup/infer", json={"inputs": inputs})


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("bad", [{"place": 9}, {"place": 0, "left": (1.0, 2.0, 3.0)}], ids=["index", "shapes"])
def test_named_tensors_that_the_model_cannot_compute_are_refused_and_close_nothing(lookup, version, bad):
    refused = [look_up(lookup, **bad, version=version) for _ in range(OFTEN)]
    answered = look_up(lookup, 2, version=version)

    assert {answer.status_code for answer in refused} == {400}
    assert refused[0].headers["x-error-code"] == "invalid_request"
    sentence = "inputs: expected numbers that the model can compute, received some on which it fails: "
    assert refused[0].json()["error"].startswith(sentence)
    assert answered.status_code == 200, answered.text


def test_one_that_cannot_be_computed_fails_alone_in_its_batch(tmp_path):
    app = app_of(make_lookup_bundle(tmp_path / "lookup"), max_queue_delay_ms=200, max_batch_size=8)
    with serving(app) as running:
        answers = {}

        def ask(place):
            answers[place] = look_up(running.client, place)

        threads = [threading.Thread(target=ask, args=(place,)) for place in (0, 1, 7, 3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    assert {place: answer.status_code for place, answer in answers.items()} == {0: 200, 1: 200, 7: 400, 3: 200}
    assert answers[3].json()["outputs"][0]["data"] == [3.0]


class Sick:
    """A model that fails as told: "" does not, "nan" gives no numbers, "raises" nothing at all."""

    def __init__(self, model, how):
        self._model, self._how = model, how
        self.provider, self.arithmetic, self.on_cpu = model.provider, model.arithmetic, model.on_cpu
        self.input_names, self.output_names = model.input_names, model.output_names

    def run(self, inputs, outputs=None):
        if self._how[0] == "raises":
            raise InferenceError("model: expected to be well, but it is not.")
        given = self._model.run(inputs, outputs)
        # What a client made itself may be too large to be computed.
        is_lost = (np.abs(inputs["input"]).max(axis=(1, 2, 3)) > 1e30) | (self._how[0] == "nan")
        return {name: np.where(is_lost[:, None], np.float32(math.nan), array) for name, array in given.items()}


def sick_app(bundle, how):
    def engines():
        engine = open_engine(
            bundle, precision="fp32", open_model=lambda *given, **named: Sick(open_model(*given, **named), how)
        )
        engine.replay_golden()
        return [engine]

    return create_app(ServingSettings(model=str(bundle)), open_engines=engines)


def rows_of(client, value):
    tensor = {"name": "input", "datatype": "FP32", "shape": [1, SIDE, SIDE, 3], "data": [value] * (SIDE * SIDE * 3)}
    return client.post("/v2/models/colours/infer", json={"inputs": [tensor]})


@pytest.mark.parametrize("how", ["nan", "raises"])
@pytest.mark.parametrize(
    "ask", [lambda client: client.post("/predict", content=RED), lambda client: rows_of(client, 0.5)]
)
def test_a_version_that_fails_on_everything_is_left_alone(bundle, how, ask):
    told = [""]
    with serving(sick_app(bundle, told)) as running:
        well = ask(running.client)
        told[0] = how
        answers = [ask(running.client) for _ in range(OFTEN)]

    assert well.status_code == 200
    assert answers[0].status_code == 500
    assert answers[-1].status_code == 503
    assert "left alone" in answers[-1].text


def test_rows_whose_answer_is_no_number_close_nothing_while_others_are_answered(bundle):
    with serving(sick_app(bundle, [""])) as running:
        refused = [rows_of(running.client, 3e38) for _ in range(OFTEN)]
        answered = running.client.post("/predict", content=RED)

    assert {answer.status_code for answer in refused} == {400}
    assert "expected finite probabilities" in refused[0].json()["error"]
    assert answered.status_code == 200
