import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.engine import Engine
from serving.errors import DeadlineError, TooLargeError
from serving.source import fetch_bundle
from tests.serving.asking import answers, ask
from tests.serving.bundles import BLUE, GREEN, LABELS, RED, image_bytes, make_bundle, reference
from tfpipe.core.errors import BundleError, ConfigError, DecodeError, GateError, InferenceError
from tfpipe.core.parity import BOUNDS, assert_parity
from tfpipe.core.signature import TensorSpec
from tfpipe.inference.images import ImageInference
from tfpipe.inference.opening import row_of_image
from tfpipe.ort import OnnxModel


def open_engine(folder: Path, **options) -> Engine:
    served = fetch_bundle(str(folder), registered_model=None, cache_dir=folder)
    defaults = {
        "precision": "auto",
        "provider": "cpu",
        "threads": 1,
        "max_batch_size": 4,
        "max_image_pixels": 10_000,
        "max_text_chars": 10_000,
    }
    return Engine.open(served, **{**defaults, **options})


class FakeSession:
    """A session of ONNX Runtime that gives what a function makes of its input."""

    def __init__(self, given: str, result: str, function) -> None:
        self._given, self._result, self._function = given, result, function

    def get_inputs(self):
        return [SimpleNamespace(name=self._given)]

    def get_outputs(self):
        return [SimpleNamespace(name=self._result)]

    def run(self, outputs, inputs):
        return [self._function(inputs[self._given])]


def raising(sentence: str):
    def run(_):
        raise RuntimeError(sentence)

    return run


def fake_engine(
    folder: Path, *, preprocess=lambda pixels: np.zeros((8, 8, 3), np.float32), model=lambda rows: rows[:, 0, 0]
) -> Engine:
    served = fetch_bundle(str(folder), registered_model=None, cache_dir=folder)
    graph = OnnxModel(FakeSession("image", "input", preprocess), "cpu")
    return Engine(
        served,
        served.bundle.variant("fp32"),
        inference=ImageInference(partial(row_of_image, graph), LABELS, max_pixels=10_000),
        model=OnnxModel(FakeSession("input", "probabilities", model), "cpu"),
        max_batch_size=2,
    )


@pytest.fixture(scope="module")
def engine(bundle):
    return open_engine(bundle, precision="fp32")


@pytest.mark.parametrize("precision", ["auto", "fp32", "fp16", "int8"])
def test_golden_answers_agree(bundle, precision):
    assert open_engine(bundle, precision=precision).replay_golden() < 0.02


def test_golden_answers_that_do_not_agree_are_refused(tmp_path):
    engine = open_engine(make_bundle(tmp_path / "b", golden_offset=0.01), precision="fp32")

    with pytest.raises(GateError, match=r"golden samples of 'colours', fp32 on cpu, in batches: expected answers"):
        engine.replay_golden()


def test_the_default_variant_is_the_manifests(bundle):
    assert open_engine(bundle).precision == "int8"


@settings(max_examples=100, deadline=None, derandomize=True)
@given(colours=st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=1, max_size=9))
def test_a_rows_answer_is_independent_of_the_rows_beside_it(engine, colours):
    contents = [image_bytes(colour, (3, 5)) for colour in colours]

    together = answers(engine, contents)

    for content, row in zip(contents, together, strict=True):
        received = np.array([row["probabilities"][label] for label in LABELS], np.float32)
        assert_parity(received, reference(content), BOUNDS["fp32"], where="batch")


def test_rows_are_run_in_batches_of_at_most_the_limit(engine):
    rows, batches = ask(engine, [RED, b"junk", GREEN, BLUE, RED, GREEN, BLUE, RED], max_batch_size=4)

    assert batches == [4, 3]
    assert isinstance(rows[1], DecodeError)


def test_nothing_is_run_where_no_row_can_be(engine):
    rows, batches = ask(engine, [b"", b"junk", image_bytes((0, 0, 0), (500, 500))])

    assert batches == []
    assert [type(row) for row in rows] == [DecodeError, DecodeError, TooLargeError]


def test_work_ends_where_nobody_waits_for_it(engine):
    with pytest.raises(DeadlineError):
        ask(engine, [RED], deadline_s=time.monotonic() - 1)


def test_a_failed_run_leaves_the_next_alone(engine):
    with pytest.raises(InferenceError, match="ONNX Runtime failed"):
        engine.run([np.zeros((2, 2, 3), np.float64)])

    assert answers(engine, [RED])[0]["label"] == "red"


def test_a_model_that_fails_fails_every_row_of_its_batch(bundle):
    rows = answers(fake_engine(bundle, model=raising("broken")), [RED, b"junk", GREEN])

    assert [type(row) for row in rows] == [InferenceError, DecodeError, InferenceError]
    assert "ONNX Runtime failed: broken" in str(rows[0])


@pytest.mark.parametrize("sentence", ["Failed to allocate memory for requested buffer", "CUDA: out of memory"])
def test_a_lack_of_memory_is_told_apart(bundle, sentence):
    models = fake_engine(bundle, model=raising(sentence)), fake_engine(bundle, preprocess=raising(sentence))

    assert [type(answers(engine, [RED])[0]) for engine in models] == [MemoryError, MemoryError]


def test_a_row_of_another_shape_is_not_run(bundle):
    rows, batches = ask(fake_engine(bundle, preprocess=lambda pixels: np.zeros((9, 8, 3), np.float32)), [RED])

    assert batches == []
    assert "expected float32 of shape (batch, 8, 8, 3), received float32 of shape (1, 9, 8, 3)" in str(rows[0])


def test_a_golden_sample_that_cannot_be_answered_is_refused(bundle):
    with pytest.raises(BundleError, match=r"red\.png: expected a golden sample that can be answered; model: expected"):
        fake_engine(bundle, preprocess=raising("broken")).replay_golden()


def test_an_answer_that_is_not_finite_is_an_error(tmp_path):
    engine = open_engine(make_bundle(tmp_path / "b", not_finite=True))

    assert isinstance(answers(engine, [RED])[0], InferenceError)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"precision": "int4"}, "expected precision fp16, fp32, int8, received 'int4'"),
        ({"provider": "tensorrt"}, "received 'tensorrt', which is not installed here"),
    ],
)
def test_what_the_bundle_or_machine_lacks_is_refused(bundle, options, sentence):
    with pytest.raises((BundleError, ConfigError), match=sentence):
        open_engine(bundle, **options)


def test_a_task_that_is_not_served_is_refused(tmp_path):
    folder = make_bundle(tmp_path / "b", manifest_changes={"task": "detection"})

    with pytest.raises(BundleError, match=r"expected task image_classification, .*, received 'detection'"):
        open_engine(folder)


def test_a_graph_with_other_names_than_the_manifest_is_refused(tmp_path):
    spec = TensorSpec("pixels", "float32", ("batch", 8, 8, 3))
    folder = make_bundle(tmp_path / "b", manifest_changes={"inputs": (spec,)})

    with pytest.raises(BundleError, match=r"expected input \['pixels'\] and output 'probabilities'"):
        open_engine(folder)
