"""The whole road of texts by its commands as users type them; each answer compared with Keras on the same strings."""

import contextlib
import json
from itertools import product

import httpx
import numpy as np
import pytest

from tests.commands import ROOT, module, on_workers, run
from tests.serving import servers
from tfpipe.config import load_config
from tfpipe.convert.pipeline import convert
from tfpipe.models.assembly import load_model
from tfpipe.text.golden import AWKWARD_TEXTS
from tfpipe.text.keras_side import keras_ids
from tfpipe.text.packing import pack
from tfpipe.train import train

pytestmark = [pytest.mark.horovod, pytest.mark.tensorflow, pytest.mark.slow, pytest.mark.timeout(600)]

MESSAGES = (ROOT / "tfpipe" / "data" / "embedded" / "support_messages.tsv").read_text(encoding="utf-8").splitlines()
NUM_TRAINED = 300
CONFIGS = ROOT / "configs"
# Those that training saw, others, the awkward, and one that no row holds.
TEXTS = [line.split("\t")[0] for line in (*MESSAGES[1:5], *MESSAGES[-5:])] + [*AWKWARD_TEXTS, "where is it? " * 90]
PEOPLE, PLACES = ("Maria", "Ann Lee", "José", "Kim"), ("Paris", "New York", "Łódź", "Oslo")
# Long enough for several rows of tokens.
TAGGED_TEXT = "José met Ann Lee in New York . " * 20
# Probabilities of float32 on two runtimes: sums in another order.
FP32_TOLERANCE = 1e-5


@contextlib.contextmanager
def served(folder, bundle):
    """A client of the service of a bundle's float32 variant."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))
        with servers.process(model=str(folder / "bundles" / bundle), precision="fp32") as server:
            servers.wait_for(server.is_ready)
            with httpx.Client(base_url=server.url) as client:
                yield client


@pytest.fixture(scope="module")
def messages(tmp_path_factory):
    """A folder in which messages were trained on two workers, and converted."""
    folder = tmp_path_factory.mktemp("messages")
    (folder / "some.tsv").write_text("\n".join(MESSAGES[: NUM_TRAINED + 1]), encoding="utf-8")
    config = str(CONFIGS / "text_classification_messages.yaml")
    small = ("training.epochs=4", "model.width=32", "preprocessing.max_length=48", "tracking.min_metrics={}")
    train = module("tfpipe.train", "--config", config, "data.path=some.tsv", "output_dir=run", *small)
    # --gloo spares the launcher a look for MPI, which starts TensorFlow once more; images go without it.
    run(on_workers(2, "--gloo", *train), folder)
    run(module("tfpipe.convert", "--precision", "int8", "conversion.max_metric_drop=0.1"), folder)
    return folder


@pytest.fixture(scope="module")
def expected(messages):
    """What Keras says of each text, alone and unpadded, by the ids of its own tokenizer layer: (texts, classes)."""
    parts = load_model(messages / "run" / "model.keras")
    tokenizer = parts.tokenizer
    rows = [
        pack(ids, max_length=parts.max_length, start_id=tokenizer.start_id, end_id=tokenizer.end_id)
        for ids in keras_ids(tokenizer, TEXTS)
    ]
    return np.concatenate([np.asarray(parts.model(np.array([row], np.int32), training=False)) for row in rows])


@pytest.fixture(scope="module")
def client(messages):
    with served(messages, "messages-1") as client:
        yield client


def probabilities(folder, predictions):
    """(texts, classes), in the order of the model's labels."""
    labels = load_model(folder / "run" / "model.keras").labels
    return [[prediction["probabilities"][label] for label in labels] for prediction in predictions]


def test_two_workers_trained_and_registered_a_model(messages):
    result = json.loads((messages / "run" / "result.json").read_text())

    assert (result["workers"], result["registered_model"], result["model_version"]) == (2, "messages", "1")


def test_http_answers_are_those_of_keras_on_the_same_strings(messages, expected, client):
    answers = [client.post("/predict", json={"text": text}).json() for text in TEXTS]

    received = probabilities(messages, [answer["predictions"][0] for answer in answers])
    for text, row, of_keras in zip(TEXTS, received, expected, strict=True):
        np.testing.assert_allclose(row, of_keras, atol=FP32_TOLERANCE, err_msg=repr(text))
    assert {(answer["model_name"], answer["model_version"]) for answer in answers} == {("messages", "1")}


def test_so_are_those_in_a_batch_of_every_length(messages, expected, client):
    answer = client.post("/predict/batch", json={"texts": TEXTS}).json()

    received = probabilities(messages, answer["predictions"])
    np.testing.assert_allclose(received, expected, atol=FP32_TOLERANCE)


def test_so_are_those_of_plain_text(messages, expected, client):
    plain = {"Content-Type": "text/plain; charset=utf-8"}
    answers = [client.post("/predict", content=text.encode(), headers=plain).json() for text in TEXTS]

    received = probabilities(messages, [answer["predictions"][0] for answer in answers])
    np.testing.assert_allclose(received, expected, atol=FP32_TOLERANCE)


def test_batch_prediction_gives_what_keras_gives(messages, expected):
    lines = [json.dumps({"text": text}) for text in TEXTS]
    (messages / "inputs.jsonl").write_text("\n".join(lines), encoding="utf-8")

    predict = ("--model", "models:/messages/1", "--precision", "fp32", "--output", "out.jsonl", "inputs.jsonl")
    run(module("tfpipe.predict", *predict), messages)

    answered = [json.loads(line) for line in (messages / "out.jsonl").read_text(encoding="utf-8").splitlines()]
    received = probabilities(messages, [line["predictions"][0] for line in answered])
    np.testing.assert_allclose(received, expected, atol=FP32_TOLERANCE)


@pytest.fixture(scope="module")
def entities(tmp_path_factory, messages):
    """A folder in which tags of words were trained, and converted; in the same store, as a second model."""
    folder = tmp_path_factory.mktemp("entities")
    sentences = [
        "".join([*tagged(person, "PER"), *words, *tagged(place, "LOC"), ". O\n"])
        for words in (["lives O\n", "in O\n"], ["is O\n", "far O\n", "from O\n"], ["met O\n", "us O\n", "in O\n"])
        for person, place in product(PEOPLE, PLACES)
    ]
    (folder / "train.conll").write_text("\n".join(sentences), encoding="utf-8")
    store = f"tracking.uri=sqlite:///{messages / 'mlflow.db'}"
    given = (f"data.path={folder / 'train.conll'}", f"output_dir={folder / 'run'}", store)
    small = ("model.name=text_cnn", "model.width=32", "training.epochs=12", "training.batch_size=8")
    train(load_config(CONFIGS / "token_classification_conll.yaml", [*given, "preprocessing.max_length=48", *small]))
    convert("models:/entities/1", precision="fp32", output=folder / "bundles" / "entities-1", overrides=[store])
    return folder


def tagged(name, kind):
    """The lines of an entity."""
    return [f"{word} {'I' if position else 'B'}-{kind}\n" for position, word in enumerate(name.split())]


def test_entities_over_http_are_those_of_keras_with_their_places(entities):
    parts = load_model(entities / "run" / "model.keras")
    inference = parts.inference()
    texts = ["Maria lives in New York .", TAGGED_TEXT, *AWKWARD_TEXTS]
    with served(entities, "entities-1") as client:
        alone = [client.post("/predict", json={"text": text}).json()["predictions"][0] for text in texts]
        together = client.post("/predict/batch", json={"texts": texts}).json()["predictions"]

    assert [(e["text"], e["label"], e["start"], e["end"]) for e in alone[0]["entities"]] == [
        ("Maria", "PER", 0, 5),
        ("New York", "LOC", 15, 23),
    ]
    assert len(inference.prepare(TAGGED_TEXT).rows) > 1
    for text, *answers in zip(texts, alone, together, strict=True):
        prepared = inference.prepare(text)
        rows = [np.asarray(parts.model(row[None], training=False))[0] for row in prepared.rows]
        wanted = prepared.answer(rows)["entities"]
        for received in (answer["entities"] for answer in answers):
            assert [text[entity["start"] : entity["end"]] for entity in received] == [e["text"] for e in received]
            scores = [[entity.pop("score") for entity in map(dict, found)] for found in (received, wanted)]
            np.testing.assert_allclose(*scores, atol=FP32_TOLERANCE)
            assert [e | {"score": None} for e in received] == [e | {"score": None} for e in wanted]
