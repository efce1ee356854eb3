"""The whole road by its commands as users type them: training, conversion, HTTP; each answer compared with Keras."""

import json

import numpy as np
import pytest

from tests.commands import ROOT, module, on_workers, run
from tests.image_files import one_of_each_kind
from tests.serving import servers
from tfpipe.decode import decode_image
from tfpipe.models.assembly import load_model

pytestmark = [pytest.mark.horovod, pytest.mark.tensorflow, pytest.mark.slow, pytest.mark.timeout(600)]

FILES = one_of_each_kind()
# Probabilities of float32 on two runtimes: sums in another order.
FP32_TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """A folder in which the first two commands have run."""
    folder = tmp_path_factory.mktemp("road")
    run(on_workers(2, *module("tfpipe.train", "output_dir=run")), folder)
    run(module("tfpipe.convert", "--precision", "int8"), folder)
    return folder


@pytest.fixture(scope="module")
def keras_answers(walked):
    """What the trained model says of each file, (files, classes)."""
    parts = load_model(walked / "run" / "model.keras")
    images = [decode_image(content)[None] for content in FILES.values()]
    return np.concatenate([np.asarray(parts.model(image, training=False)) for image in images])


def test_two_workers_reach_the_accuracy_that_the_readme_promises(walked):
    result = json.loads((walked / "run" / "result.json").read_text())

    assert result["workers"] == 2
    assert result["metrics"]["val_accuracy"] >= 0.98


def test_int8_loses_at_most_half_a_point(walked):
    variants = json.loads((walked / "bundles" / "digits-1" / "bundle.json").read_text())["variants"]

    assert variants["fp32"]["metrics"]["accuracy"] - variants["int8"]["metrics"]["accuracy"] <= 0.005


def test_http_answers_are_those_of_keras_on_the_same_files(walked, keras_answers, monkeypatch):
    monkeypatch.chdir(walked)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with servers.process(precision="fp32", cache_dir=str(walked / "cache")) as server:
        servers.wait_for(server.is_ready)
        answers = [server.post("/predict", content=content).json() for content in FILES.values()]

    labels = load_model(walked / "run" / "model.keras").labels
    for kind, answer, expected in zip(FILES, answers, keras_answers, strict=True):
        (prediction,) = answer["predictions"]
        received = [prediction["probabilities"][label] for label in labels]
        np.testing.assert_allclose(received, expected, atol=FP32_TOLERANCE, err_msg=kind)
        assert prediction["label"] == labels[int(expected.argmax())]
        assert (answer["model_name"], answer["model_version"]) == ("digits", "1")


def test_batch_prediction_gives_what_keras_gives(walked, keras_answers):
    for number, content in enumerate(FILES.values()):
        (walked / "inputs" / f"{number:02d}").parent.mkdir(exist_ok=True)
        (walked / "inputs" / f"{number:02d}.png").write_bytes(content)

    predict = ("--model", "models:/digits/1", "--precision", "fp32", "--output", "predictions.jsonl", "inputs")
    run(module("tfpipe.predict", *predict), walked)

    lines = [json.loads(line) for line in (walked / "predictions.jsonl").read_text().splitlines()]
    labels = load_model(walked / "run" / "model.keras").labels
    for kind, line, expected in zip(FILES, lines, keras_answers, strict=True):
        received = [line["predictions"][0]["probabilities"][label] for label in labels]
        np.testing.assert_allclose(received, expected, atol=FP32_TOLERANCE, err_msg=kind)
