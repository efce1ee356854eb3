"""Contenders built, run in processes of their own, and scored."""

import numpy as np
import onnx
import pytest

from tests.convert.onnx_graphs import answers, convolutional, rows
from tfpipe.convert import measure
from tfpipe.convert.examine import Examiner, Known, RememberedExamples, Yardstick
from tfpipe.convert.half import to_float16
from tfpipe.convert.measure import Timing
from tfpipe.convert.onnx_file import open_graph
from tfpipe.convert.quantize import Quantizer
from tfpipe.convert.recipe import Recipe
from tfpipe.convert.trial import Contender
from tfpipe.core.errors import BundleError, ConfigError, ConversionError, InferenceError
from tfpipe.core.signature import TensorSpec
from tfpipe.ort_providers import Way
from tfpipe.tasks.single_label import SingleLabel

pytestmark = [pytest.mark.tensorflow]

MINMAX = Recipe("all", "minmax")
LABELS = ("cat", "dog", "owl")


class Rows:
    """A conversion of rows that have one shape."""

    output = TensorSpec("probabilities", "float32", (None, 3))

    def batch(self, rows):
        return np.stack(rows)

    def cut(self, probabilities, rows):
        return list(probabilities)


class Labelled:
    """Examples whose labels are what float32 answers, but for the first."""

    first_error = ""

    def __init__(self):
        self.read = 0
        self.rows = np.random.default_rng(8).normal(0, 1, (40, 8, 8, 3)).astype(np.float32)
        self.labels = answers(convolutional(), self.rows).argmax(axis=1).astype(np.int32)
        self.labels[0] = (self.labels[0] + 1) % 3

    def __len__(self):
        return len(self.rows)

    def batches(self):
        self.read += 1
        for start in range(0, 40, 16):
            batch = self.rows[start : start + 16]
            yield batch, self.labels[start : start + 16], len(batch)


@pytest.fixture
def built():
    return []


@pytest.fixture
def examiner(tmp_path, built):
    graph = convolutional()
    with Quantizer(graph, [{"input": rows()}]) as quantizer:

        def build(precision, recipe):
            built.append((precision, recipe))
            if precision == "fp16":
                return to_float16(graph)[0]
            return quantizer.quantize(recipe) if recipe else graph

        yield Examiner(build, yardstick(graph), tmp_path)


def yardstick(graph, **other):
    values = {
        "conversion": Rows(), "rows": list(rows()), "references": list(answers(graph, rows())),
        "examples": Labelled(), "task": SingleLabel(LABELS), "max_corrupt_fraction": 0.0, "timing": Timing(max_s=0.02),
    }  # fmt: skip
    return Yardstick(**{**values, **other})


def test_a_contender_is_built_once_measured_and_scored(examiner, built):
    reference = examiner.examine(Contender("fp32"))
    int8 = [examiner.examine(Contender("int8", MINMAX)) for _ in range(2)][-1]

    assert built == [("fp32", None), ("int8", MINMAX)]
    assert reference.metrics["accuracy"] == reference.figures.score == 39 / 40
    assert reference.metrics["top1_agreement"] == 1.0
    assert int8.figures.score > 0.8
    for trial in (reference, int8):
        assert trial.problem == ""
        assert trial.latency_ms.keys() == {"1", "8"}
        assert 0 < trial.p50_ms <= trial.latency_ms["1"]["p95"]
        assert trial.rows_per_second["8"] > 0
        assert trial.peak_memory_bytes > 10_000_000
        assert trial.batch_invariant
        assert trial.figures.size_bytes == examiner.file(trial.contender).path.stat().st_size
    assert reference.golden_max_abs_diff < 1e-6 < int8.golden_max_abs_diff < 0.5
    assert int8.figures.weight_bytes < 0.5 * reference.figures.weight_bytes
    assert int8.figures.p50_ms == int8.p50_ms
    assert sum(recall.total for recall in int8.figures.recalls.values()) == 40


def test_rows_that_depend_on_their_neighbours_are_told(tmp_path):
    graph = convolutional()
    recipe = Recipe("products", "dynamic")
    with Quantizer(graph, []) as quantizer:
        trial = Examiner(lambda *_: quantizer.quantize(recipe), yardstick(graph), tmp_path).examine(
            Contender("int8", recipe)
        )

    assert trial.figures.neighbours > 0
    assert not trial.batch_invariant


def test_float_answers_beyond_their_bound_are_a_problem_and_are_not_scored(tmp_path):
    wrong = [answer[::-1] for answer in answers(convolutional(), rows())]

    trial = Examiner(lambda *_: convolutional(), yardstick(convolutional(), references=wrong), tmp_path).examine(
        Contender("fp32")
    )

    assert trial.problem.startswith("Its answers differ from Keras's by up to ")
    assert not trial.passed
    assert trial.figures is None


def test_answers_that_are_no_numbers_are_a_problem(tmp_path):
    graph = convolutional()
    bias = next(tensor for tensor in graph.graph.initializer if tensor.name == "dense/bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(3, np.nan, np.float32), bias.name))

    trial = Examiner(lambda *_: graph, yardstick(convolutional()), tmp_path).examine(Contender("int8", MINMAX))

    assert trial.problem == "Its answers are not finite, or of another shape than Keras's."


def test_without_validation_data_there_is_no_score(tmp_path):
    trial = Examiner(lambda *_: convolutional(), yardstick(convolutional(), examples=None), tmp_path).examine(
        Contender("fp32")
    )

    assert trial.figures.score is None
    assert trial.metrics == {}


def test_what_was_scored_before_is_not_scored_again(tmp_path):
    graph, labelled = convolutional(), Labelled()
    session = open_graph(graph)
    scores = measure.score({"fp32": session}, labelled, SingleLabel(LABELS), max_corrupt_fraction=0.0)
    examiner = Examiner(lambda *_: graph, yardstick(graph, examples=labelled, scores=scores), tmp_path)

    trial = examiner.examine(Contender("fp32"))

    assert labelled.read == 1
    assert trial.metrics == scores.metrics("fp32") | {"top1_agreement": 1.0}
    assert trial.figures.score == scores.headline("fp32")
    assert trial.figures.recalls == scores.recalls("fp32")


def test_what_trials_found_is_known_under_the_names_of_the_bundle(examiner):
    int8 = examiner.examine(Contender("int8", MINMAX))

    known = examiner.known(Contender("int8", MINMAX, Way("openvino", "bfloat16")), "int8_mixed")

    assert known.scores.metrics("int8_mixed").items() <= int8.metrics.items()
    assert known.tried.speed.latency_ms == int8.latency_ms
    assert known.tried.peak_memory_bytes == int8.peak_memory_bytes
    assert known.neighbours == int8.figures.neighbours
    assert examiner.known(Contender("fp32"), "fp32") == Known()


def test_what_cannot_be_built_loaded_or_run_raises_its_reason(tmp_path, examiner):
    def broken(precision, recipe):
        raise ConversionError("int8: no")

    damaged = onnx.ModelProto(ir_version=9)
    for build, way, error in (
        (broken, Way(), ConversionError),
        (lambda *_: damaged, Way(), BundleError),
        (lambda *_: convolutional(), Way("tensorrt"), ConfigError),
    ):
        with pytest.raises(error):
            Examiner(build, yardstick(convolutional()), tmp_path).examine(Contender("fp32", way=way))

    with pytest.raises(InferenceError, match="expected it to be measured within 0 s"):
        Examiner(
            lambda *_: convolutional(), yardstick(convolutional(), timing=Timing(timeout_s=0.01)), tmp_path
        ).examine(Contender("fp32"))


def test_validation_data_are_read_once_where_they_fit():
    labelled = Labelled()
    remembered = RememberedExamples(labelled)

    passes = [list(remembered.batches()) for _ in range(3)]

    assert labelled.read == 1
    assert len(remembered) == 40
    for one in passes:
        np.testing.assert_array_equal(np.concatenate([batch for batch, _, _ in one]), labelled.rows)


def test_validation_data_that_do_not_fit_are_read_each_time():
    labelled = Labelled()
    remembered = RememberedExamples(labelled, max_bytes=1000)

    passes = [list(remembered.batches()) for _ in range(2)]

    assert labelled.read == 2
    assert [len(one) for one in passes] == [3, 3]


def test_a_pass_that_was_broken_off_is_not_remembered():
    remembered = RememberedExamples(Labelled())

    next(remembered.batches())

    assert sum(len(batch) for batch, _, _ in remembered.batches()) == 40
