"""Answers to texts: alone, beside others, and as NumPy has them."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.engine import Engine
from serving.errors import InvalidRequestError, TooLargeError, UndecodableTextError
from serving.source import fetch_bundle
from tests.serving.asking import answers, ask
from tests.serving.text_bundles import CLASSES, MAX_LENGTH, TAGS, make_text_bundle, text_reference
from tests.text.texts import CORPUS, any_text
from tfpipe.core.errors import BundleError, GateError
from tfpipe.core.parity import BOUNDS, assert_parity
from tfpipe.inference.opening import open_inference
from tfpipe.inference.texts import TextInference
from tfpipe.ort import OnnxModel, open_session
from tfpipe.text.train_tokenizer import train_tokenizer

BUNDLES = ("text_bundle", "multi_label_bundle", "tags_bundle")
# Longer than a row, so that a text of tags becomes several.
LONG = "The quick brown fox jumps over the lazy dog, and Ángström was in São Paulo. " * 6


def open_engine(folder: Path, **options) -> Engine:
    served = fetch_bundle(str(folder), registered_model=None, cache_dir=folder)
    defaults = {
        "precision": "auto", "provider": "cpu", "threads": 1, "max_batch_size": 4, "max_image_pixels": 1,
        "max_text_chars": 1000,
    }  # fmt: skip
    return Engine.open(served, **{**defaults, **options})


def engine_of(folder: Path, **parts) -> Engine:
    """An engine of which some parts are others than the bundle's; it runs two rows at once."""
    served = fetch_bundle(str(folder), registered_model=None, cache_dir=folder)
    variant = served.bundle.variant("auto")
    own = {
        "inference": open_inference(served.bundle),
        "model": open_session(served.bundle.path(variant.file), provider="cpu"),
    }
    return Engine(served, variant, max_batch_size=2, **{**own, **parts})


@pytest.fixture(scope="module", params=BUNDLES)
def engine(request):
    return open_engine(request.getfixturevalue(request.param))


@pytest.mark.parametrize("kind", ["bpe", "sentencepiece", pytest.param("wordpiece", marks=pytest.mark.tensorflow)])
@pytest.mark.parametrize("task", ["text_classification", "token_classification"])
def test_golden_answers_agree_with_every_tokenizer(kind, task, tmp_path):
    tokenizer = train_tokenizer(CORPUS, kind=kind, vocabulary_size=400)
    engine = open_engine(make_text_bundle(tmp_path / "b", tokenizer, task=task))

    assert engine.replay_golden() < 1e-5
    engine.warm_up()


@pytest.mark.parametrize("task", ["text_classification", "token_classification"])
def test_golden_answers_that_do_not_agree_are_refused(tokenizer, tmp_path, task):
    engine = open_engine(make_text_bundle(tmp_path / "b", tokenizer, task=task, golden_offset=0.01))

    with pytest.raises(GateError, match="fp32 on cpu, in batches: expected answers"):
        engine.replay_golden()


def test_golden_answers_of_another_length_are_refused(tokenizer, tags_bundle):
    shorter = TextInference(tokenizer, task="token_classification", labels=TAGS, max_length=MAX_LENGTH - 1)
    engine = engine_of(tags_bundle, inference=shorter)

    with pytest.raises(GateError, match=r"expected shape \(24, 5\), received \(23, 5\)"):
        engine.replay_golden()


@settings(max_examples=50, deadline=None, derandomize=True)  # of each of three bundles
@given(texts=st.lists(any_text() | st.just(LONG), min_size=1, max_size=9))
def test_a_texts_answer_is_independent_of_the_texts_beside_it(engine, texts):
    together = answers(engine, texts)

    for text, row in zip(texts, together, strict=True):
        assert_same(row, answers(engine, [text.encode()])[0])
        for entity in row.get("entities", ()):
            assert text[entity["start"] : entity["end"]] == entity["text"] != ""


def assert_same(answer, other) -> None:
    if "entities" in answer:
        assert [{**entity, "score": 0} for entity in answer["entities"]] == [
            {**entity, "score": 0} for entity in other["entities"]
        ]
        scores, others = ([entity["score"] for entity in each["entities"]] for each in (answer, other))
    else:
        assert set(answer) == set(other)
        scores = [answer["probabilities"][label] for label in CLASSES]
        others = [other["probabilities"][label] for label in CLASSES]
    np.testing.assert_allclose(scores, others, atol=1e-5, rtol=0)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(text=any_text() | st.just(LONG))
@pytest.mark.parametrize(
    ("engine", "multi_label"), [("text_bundle", False), ("multi_label_bundle", True)], indirect=["engine"]
)
def test_probabilities_are_those_of_numpy(tokenizer, engine, multi_label, text):
    answer = answers(engine, [text])[0]

    received = np.array([answer["probabilities"][label] for label in CLASSES], np.float32)
    reference = text_reference(tokenizer, text, task="text_classification", multi_label=multi_label)
    assert_parity(received, reference, BOUNDS["fp32"], where="engine")


def test_rows_of_like_length_are_run_together(tokenizer, text_bundle):
    class Recording:
        """A session of ONNX Runtime that notes the shapes of its input."""

        def __init__(self):
            self.shapes = []

        def get_inputs(self):
            return [SimpleNamespace(name="input")]

        def get_outputs(self):
            return [SimpleNamespace(name="probabilities")]

        def run(self, outputs, inputs):
            self.shapes.append(inputs["input"].shape)
            return [np.full((len(inputs["input"]), len(CLASSES)), 0.25, np.float32)]

    session = Recording()
    engine = engine_of(text_bundle, model=OnnxModel(session, "cpu"))

    _, batches = ask(engine, ["a", LONG, "", LONG, "b"], max_batch_size=2)
    engine.warm_up()

    assert session.shapes == [(2, 16), (1, 16), (2, MAX_LENGTH), (2, 16), (2, MAX_LENGTH)]
    assert batches == [2, 1, 2]


def test_an_input_that_fails_leaves_the_others_be(tags_bundle):
    rows = answers(open_engine(tags_bundle), [InvalidRequestError("wrong"), LONG, b"\xff", "x" * 1001, "a\ud800", ""])

    assert [type(row) for row in rows] == [
        InvalidRequestError, dict, UndecodableTextError, TooLargeError, UndecodableTextError, dict,
    ]  # fmt: skip
    assert rows[3].details == {"expected_chars": 1000, "received_chars": 1001}
    assert rows[5] == {"entities": []}


def test_a_bundle_whose_tokenizer_is_missing_is_refused(tokenizer, tmp_path):
    folder = make_text_bundle(tmp_path / "b", tokenizer)
    (folder / "tokenizer" / "vocabulary.json").unlink()

    with pytest.raises(BundleError, match=r"expected the file 'tokenizer/vocabulary.json', found none"):
        open_engine(folder)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"settings": '{"config": {"max_length": "long"}}'},
            "preprocessing.json: expected the tokens of a row as config.max_length",
        ),
        ({"max_length": 2}, "expected a model of texts; max_length: expected more than 2, received 2"),
        (
            {"task": "token_classification", "manifest_changes": {"labels": ("O", "PER")}},
            "expected a model of texts; labels: tag: expected O, or B-",
        ),
    ],
)
def test_a_bundle_that_makes_no_sense_is_refused(tokenizer, tmp_path, options, sentence):
    with pytest.raises(BundleError, match=sentence):
        open_engine(make_text_bundle(tmp_path / "b", tokenizer, **options))
