import base64
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import yaml

from tests.image_files import one_of_each_kind
from tests.serving.bundles import GREEN, RED
from tfpipe.core.bundle import open_bundle, read_golden
from tfpipe.core.parity import golden_bound, max_abs_diff
from tfpipe.targets.answering import BundleAnswers
from tfpipe.targets.export import ExportOptions, export

pytestmark = [pytest.mark.slow]

_PATIENCE_S = 120.0
# What a machine has that only answers.
BLOCKED = ("tensorflow", "keras", "horovod", "tf2onnx", "onnx", "google_crc32c")


@pytest.fixture(scope="module")
def models(bundle, text_bundle, multi_label_bundle, tags_bundle, tmp_path_factory):
    """Exported folders by name."""
    root = tmp_path_factory.mktemp("mlflow")
    named = {"colours": bundle, "moods": text_bundle, "several": multi_label_bundle, "names": tags_bundle}
    return {name: export(folder, "mlflow", root / name).folder for name, folder in named.items()}


@pytest.fixture(scope="module")
def blocked(tmp_path_factory):
    """The environment of a process that cannot import TensorFlow, nor the tfpipe of this checkout."""
    folder = tmp_path_factory.mktemp("blocked")
    for name in BLOCKED:
        (folder / f"{name}.py").write_text(f"raise ImportError('{name} is blocked')")
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return {**os.environ, "PYTHONPATH": str(folder), "PATH": path, "MLFLOW_DISABLE_TELEMETRY": "true"}


def contents_of(bundle):
    opened = open_bundle(bundle)
    return [opened.path(sample.file).read_bytes() for sample in read_golden(opened)]


# In Python.


@pytest.fixture(scope="module")
def predictions(models, blocked, tmp_path_factory, bundle):
    """What a process without TensorFlow predicted, by model and form of input."""
    folder = tmp_path_factory.mktemp("asked")
    images = [base64.b64encode(content).decode() for content in one_of_each_kind().values()]
    (folder / "asked.json").write_text(json.dumps({"models": {k: str(v) for k, v in models.items()}, "images": images}))
    (folder / "ask.py").write_text(ASK)
    done = subprocess.run([sys.executable, "ask.py"], cwd=folder, env=blocked, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in folder.iterdir()) == ["answered.json", "ask.py", "asked.json"]
    return json.loads((folder / "answered.json").read_text())


ASK = """
import base64, json, sys
import mlflow, pandas as pd

asked = json.load(open("asked.json"))
models = {name: mlflow.pyfunc.load_model(path) for name, path in asked["models"].items()}
encoded = asked["images"]
images = [base64.b64decode(one) for one in encoded]
texts = ["The quick brown fox", ""]
given = {
    "list of bytes": ("colours", images),
    "list of base64": ("colours", encoded),
    "list of base64 as bytes": ("colours", [one.encode() for one in encoded]),
    "DataFrame of bytes": ("colours", pd.DataFrame({"image": images})),
    "DataFrame of base64": ("colours", pd.DataFrame({"any": encoded})),
    "list of texts": ("moods", texts),
    "DataFrame of texts": ("moods", pd.DataFrame({"text": texts})),
    "several labels": ("several", texts),
    "entities": ("names", texts),
    "no image": ("colours", [images[0], b"no image"]),
    "no base64": ("colours", ["***"]),
    "no text": ("moods", ["a text", None]),
}
answered = {"code": sys.modules["tfpipe"].__file__}
for name, (model, value) in given.items():
    try:
        answered[name] = models[model].predict(value).to_dict("records")
    except Exception as error:
        answered[name] = f"{type(error).__name__}: {error}"
json.dump(answered, open("answered.json", "w"))
"""


def test_images_in_every_form_get_the_answers_of_our_own_code(predictions, bundle):
    expected = [one.answer for one in BundleAnswers(open_bundle(bundle)).of(list(one_of_each_kind().values()))]

    for form in (
        "list of bytes",
        "list of base64",
        "list of base64 as bytes",
        "DataFrame of bytes",
        "DataFrame of base64",
    ):
        received = predictions[form]
        assert [one["label"] for one in received] == [one["label"] for one in expected], form
        assert [one["score"] for one in received] == pytest.approx([one["score"] for one in expected]), form
        assert [list(one["probabilities"]) for one in received] == [list(one["probabilities"]) for one in expected]


def test_texts_in_every_form_get_the_answers_of_our_own_code(predictions, text_bundle, multi_label_bundle, tags_bundle):
    texts = ["The quick brown fox", ""]

    assert predictions["list of texts"] == approximately(BundleAnswers(open_bundle(text_bundle)).of(texts))
    assert predictions["DataFrame of texts"] == predictions["list of texts"]
    assert predictions["several labels"] == approximately(BundleAnswers(open_bundle(multi_label_bundle)).of(texts))
    assert predictions["entities"] == approximately(BundleAnswers(open_bundle(tags_bundle)).of(texts))
    assert predictions["entities"][0]["entities"]


def approximately(answered):
    """Answers that may differ by rounding, as ONNX Runtime sums otherwise in batches."""
    return [{key: approximate(value) for key, value in one.answer.items()} for one in answered]


def approximate(value):
    if isinstance(value, float):
        return pytest.approx(value, abs=1e-6)
    if isinstance(value, dict):
        return {key: approximate(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [approximate(entry) for entry in value]
    return value


def test_inputs_that_cannot_be_read_are_named(predictions):
    assert predictions["no image"].startswith("DecodeError: input 1: image: expected a JPEG")
    assert predictions["no base64"].startswith("DecodeError: input 0: expected an image file as bytes or in base64")
    assert predictions["no text"].startswith("DecodeError: input 1: expected a text, received 'None'")


def test_the_code_that_answers_is_the_one_that_travels_with_the_model(predictions, models):
    assert predictions["code"] == str(models["colours"] / "code" / "tfpipe" / "__init__.py")


# What is written.


def test_the_signature_says_what_goes_in_and_out(models):
    documents = {name: yaml.safe_load((folder / "MLmodel").read_text()) for name, folder in models.items()}
    inputs = {name: json.loads(one["signature"]["inputs"])[0]["type"] for name, one in documents.items()}
    outputs = {
        name: [column["name"] for column in json.loads(one["signature"]["outputs"])] for name, one in documents.items()
    }

    assert inputs == {"colours": "binary", "moods": "string", "several": "string", "names": "string"}
    assert outputs == {
        "colours": ["label", "score", "probabilities"],
        "moods": ["label", "score", "probabilities"],
        "several": ["labels", "probabilities"],
        "names": ["entities"],
    }


def test_every_requirement_is_pinned_and_none_is_tensorflow(models):
    for name, tokenizers in (("colours", False), ("moods", True)):
        lines = (models[name] / "requirements.txt").read_text().split()
        assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][\w.]*", line) for line in lines)
        names = {line.partition("==")[0] for line in lines}
        assert {"mlflow", "numpy", "onnxruntime", "pillow", "simplejpeg"} <= names
        assert ("tokenizers" in names) == tokenizers
        assert not names & {"tensorflow", "keras"}


def test_the_precision_that_was_exported_is_the_one_that_answers(bundle, tmp_path):
    folder = export(bundle, "mlflow", tmp_path / "out", options=ExportOptions(precision="fp16")).folder

    assert yaml.safe_load((folder / "MLmodel").read_text())["flavors"]["python_function"]["config"] == {
        "precision": "fp16"
    }


# MLflow's own server.


@pytest.fixture(scope="module")
def server(models, blocked, tmp_path_factory):
    with scoring_server(models["colours"], blocked, tmp_path_factory.mktemp("server")) as client:
        yield client


@contextlib.contextmanager
def scoring_server(model, environ, folder):
    """`mlflow models serve` on a free port of 127.0.0.1, until the block ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", str(model), "--env-manager", "local"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    with open(folder / "log", "wb") as log:
        # A session of its own: the server that it starts ends with it.
        process = subprocess.Popen(command, cwd=folder, env=environ, stdout=log, stderr=log, start_new_session=True)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=_PATIENCE_S) as client:
            deadline_s = time.monotonic() + _PATIENCE_S
            while not _answers(client):
                if process.poll() is not None or time.monotonic() > deadline_s:
                    raise RuntimeError((folder / "log").read_text())
                time.sleep(0.1)  # polls
            yield client
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def _answers(client):
    try:
        return client.get("/ping").status_code == 200
    except httpx.TransportError:
        return False


def test_mlflows_server_answers_golden_images_as_keras_did(server, bundle):
    opened = open_bundle(bundle)
    encoded = [base64.b64encode(content).decode() for content in contents_of(bundle)]
    bound = golden_bound("int8", opened.variant("int8").golden_max_abs_diff)

    for body in (
        {"dataframe_split": {"columns": ["image"], "data": [[one] for one in encoded]}},
        {"dataframe_records": [{"image": one} for one in encoded]},
        {"inputs": encoded},
    ):
        response = server.post("/invocations", json=body)

        assert response.status_code == 200, response.text
        for sample, answer in zip(read_golden(opened), response.json()["predictions"], strict=True):
            probabilities = sample.probabilities.copy()
            probabilities[:] = [answer["probabilities"][label] for label in opened.manifest.labels]
            assert max_abs_diff(probabilities, sample.probabilities) <= bound.atol
            assert answer["label"] == max(answer["probabilities"], key=answer["probabilities"].get)


def test_mlflows_server_refuses_what_is_no_image_and_goes_on(server):
    refused = server.post("/invocations", json={"inputs": [base64.b64encode(b"no image").decode()]})
    answered = server.post("/invocations", json={"inputs": [base64.b64encode(GREEN).decode()]})

    assert refused.status_code == 400
    assert "expected a JPEG" in refused.json()["stack_trace"]
    assert answered.json()["predictions"][0]["label"] == "green"


def test_the_example_that_travels_with_the_model_is_answered(server, models):
    example = (models["colours"] / "serving_input_example.json").read_text()

    response = server.post("/invocations", content=example, headers={"Content-Type": "application/json"})

    assert response.json()["predictions"][0]["label"] == "red"
    assert base64.b64decode(json.loads(example)["inputs"][0]) == RED
