import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tfpipe.core.errors import BundleError, ConfigError, InferenceError
from tfpipe.latency import measure, try_out
from tfpipe.ort import OnnxModel, open_session
from tfpipe.ort_providers import Way

PLAIN = Way()


@pytest.fixture(scope="module")
def content() -> bytes:
    """Two inputs with awkward names, their sum and their difference."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]) for name in ("a/b:0", "c")]
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 2]) for name in ("sum", "less")]
    nodes = [helper.make_node("Add", ["a/b:0", "c"], ["sum"]), helper.make_node("Sub", ["a/b:0", "c"], ["less"])]
    graph = helper.make_graph(nodes, "g", values, results)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()


@pytest.fixture(scope="module")
def file(content, tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "model.onnx"
    path.write_bytes(content)
    return path


def feed(rows: int) -> dict[str, np.ndarray]:
    return {"a/b:0": np.full((rows, 2), 3, np.float32), "c": np.ones((rows, 2), np.float32)}


class TimedModel(OnnxModel):
    """A model whose runs take the seconds given, in turn, the last one for ever, by a clock that stands still else."""

    def __init__(self, *seconds: float) -> None:
        self._seconds, self._now, self.runs = list(seconds), 0.0, 0

    def run(self, inputs, outputs=None):
        self.runs += 1
        self._now += self._seconds.pop(0) if len(self._seconds) > 1 else self._seconds[0]
        return {}

    def clock(self) -> float:
        return self._now


def test_percentiles_and_rows_a_second_are_given_by_batch_size(content):
    speed = measure(open_session(content, provider="cpu"), {1: feed(1), 8: feed(8)}, max_s=0.2)

    assert set(speed.latency_ms) == set(speed.rows_per_second) == {"1", "8"}
    for row in speed.latency_ms.values():
        assert 0 < row["p50"] <= row["p95"] <= row["p99"]


def test_figures_are_of_the_time_that_a_run_takes():
    model = TimedModel(*[0.01] * 100, *[0.02] * 5)

    speed = measure(model, {1: {}}, max_s=1.05, clock=model.clock)

    assert speed.latency_ms == {"1": {"p50": 10.0, "p95": 10.0, "p99": 20.0}}
    # Five runs warm up; the limit is passed in the third of the slower ones.
    assert speed.rows_per_second == {"1": pytest.approx(98 / (95 * 0.01 + 3 * 0.02), rel=1e-3)}


def test_rows_a_second_count_every_row_of_a_batch():
    model = TimedModel(0.01)

    assert measure(model, {1: {}, 8: {}}, clock=model.clock).rows_per_second == {"1": 100.0, "8": 800.0}


def test_the_first_runs_which_allocate_are_not_counted():
    model = TimedModel(0.2, 0.001)

    assert measure(model, {1: {}}, max_s=0.4, clock=model.clock).latency_ms["1"]["p99"] == 1.0


@settings(max_examples=100, deadline=None, derandomize=True)
@given(run_s=st.floats(1e-5, 10), max_s=st.floats(0.01, 5), sizes=st.sets(st.integers(1, 9), min_size=1, max_size=3))
def test_time_is_bounded_but_for_the_first_runs(run_s, max_s, sizes):
    model = TimedModel(run_s)

    speed = measure(model, {size: {} for size in sizes}, max_s=max_s, clock=model.clock)

    # Of each size one run warms up and three are measured, whatever they take; the last one begins within the limit.
    assert model.clock() <= max(max_s + run_s * len(sizes), 4 * run_s * len(sizes)) * (1 + 1e-9)
    assert 4 * len(sizes) <= model.runs <= 1005 * len(sizes)
    assert all(row["p50"] == round(run_s * 1e3, 4) for row in speed.latency_ms.values())


def test_a_process_of_its_own_answers_as_a_session_here_does(file, content):
    trial = try_out(file, PLAIN, answered=[feed(1), feed(3)], batches={1: feed(1)}, max_s=0.1)

    for received, given_feed in zip(trial.outputs, [feed(1), feed(3)], strict=True):
        expected = open_session(content, provider="cpu").run(given_feed)
        assert {name: array.tolist() for name, array in received.items()} == {
            name: array.tolist() for name, array in expected.items()
        }
    assert set(trial.speed.latency_ms) == {"1"}
    assert trial.on_cpu == ()


def test_memory_is_that_of_the_process_and_not_of_the_one_that_started_it(file):
    held = np.ones(400_000_000 // 8)

    trial = try_out(file, PLAIN, answered=[], batches={})

    assert 10e6 < trial.peak_memory_bytes < held.nbytes


def test_memory_counts_what_the_model_holds(file, tmp_path):
    weights = numpy_helper.from_array(np.ones((1, 25_000_000), np.float32), "w")
    given_x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    nodes = [helper.make_node("Mul", ["x", "w"], ["p"]), helper.make_node("ReduceMax", ["p"], ["y"], keepdims=0)]
    graph = helper.make_graph(nodes, "g", [given_x], [result], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    (tmp_path / "large.onnx").write_bytes(model.SerializeToString())

    large = try_out(tmp_path / "large.onnx", PLAIN, answered=[{"x": np.ones(1, np.float32)}], batches={})
    small = try_out(file, PLAIN, answered=[feed(1)], batches={})

    assert large.peak_memory_bytes - small.peak_memory_bytes > 100e6


@pytest.mark.parametrize(
    ("way", "kind", "sentence"),
    [
        (Way("gpu"), ConfigError, "expected one of auto, cpu, openvino, cuda, tensorrt; received 'gpu'"),
        (Way("cpu", "float16"), ConfigError, "expected float32 of provider 'cpu', received 'float16'"),
    ],
)
def test_what_is_wrong_with_a_way_is_told_as_by_a_session_here(file, way, kind, sentence):
    with pytest.raises(kind, match=sentence):
        try_out(file, way, answered=[], batches={})


def test_a_file_that_is_no_model_is_refused(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"no model")

    with pytest.raises(BundleError, match=r"m\.onnx: expected an ONNX model that ONNX Runtime can load"):
        try_out(tmp_path / "m.onnx", PLAIN, answered=[], batches={})


def test_a_failing_run_is_told(file):
    with pytest.raises(InferenceError, match="ONNX Runtime failed"):
        try_out(file, PLAIN, answered=[{"c": np.ones((1, 2), np.float32)}], batches={})


def test_a_model_that_takes_too_long_is_given_up(file):
    with pytest.raises(InferenceError, match=r"model on cpu: expected it to be measured within 0 s"):
        try_out(file, PLAIN, answered=[], batches={}, timeout_s=0.05)


def test_a_process_that_crashes_ends_alone(file, tmp_path, monkeypatch):
    # Every Python process runs this file first, as a provider's library would crash it.
    (tmp_path / "sitecustomize.py").write_text("import os; os.kill(os.getpid(), 11)")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))

    with pytest.raises(InferenceError, match="ended with signal SIGSEGV"):
        try_out(file, PLAIN, answered=[], batches={})
