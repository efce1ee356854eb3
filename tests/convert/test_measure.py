from types import SimpleNamespace

import numpy as np
import pytest
from onnx import helper

from tests.convert.onnx_graphs import convolutional, graph_of, rows
from tests.samples import ArraySource
from tfpipe.convert import measure
from tfpipe.core.errors import DataError
from tfpipe.ort import open_session

pytestmark = pytest.mark.tensorflow

DATA = SimpleNamespace(max_image_pixels=10_000, max_corrupt_fraction=0.1)


def session_of(graph):
    return open_session(graph.SerializeToString(), provider="cpu")


class FirstPixel:
    """Stands for a preprocessing graph: the sample's first pixel, three times."""

    def run(self, inputs):
        return {"input": np.float32(inputs["image"][0, 0])}


class Tells:
    """Stands for a model graph that answers from the index that a sample's first pixel tells."""

    def __init__(self, predict):
        self._predict = predict

    def run(self, inputs):
        indices = inputs["input"][:, 0] * 256 + inputs["input"][:, 1]
        return {"probabilities": np.eye(2)[[self._predict(int(index)) for index in indices]]}


def test_accuracy_is_the_share_of_right_answers_of_every_sample_once():
    models = {"fp32": Tells(lambda i: i % 2), "int8": Tells(lambda i: i % 2 if i >= 7 else 1 - i % 2)}

    scores = measure.predict(models, FirstPixel(), ArraySource(70), DATA)

    assert scores.labels.tolist() == [i % 2 for i in range(70)]
    assert (scores.accuracy("fp32"), scores.accuracy("int8")) == (1.0, 0.9)
    assert scores.agreement("int8") == 0.9
    assert scores.num_corrupt == 0


def test_unreadable_samples_are_left_out_and_counted():
    scores = measure.predict({"fp32": Tells(lambda i: 0)}, FirstPixel(), ArraySource(40, corrupt=(1, 3, 38)), DATA)

    assert scores.num_corrupt == 3
    assert scores.labels.tolist() == [i % 2 for i in range(40) if i not in (1, 3, 38)]


@pytest.mark.parametrize("corrupt", [range(5), range(40)])
def test_too_many_unreadable_samples_are_an_error_that_names_the_first(corrupt):
    with pytest.raises(DataError, match=rf"{len(corrupt)} of 40 samples cannot be read, more than .*; the first: sam"):
        measure.predict({"fp32": Tells(lambda i: 0)}, FirstPixel(), ArraySource(40, corrupt=corrupt), DATA)


def test_latency_is_measured_for_one_row_and_for_eight():
    latency = measure.latency_ms(convolutional().SerializeToString(), rows(3), runs=3)

    assert latency.keys() == {"1", "8"}
    assert all(value > 0 for value in latency.values())


def test_a_graph_whose_rows_do_not_touch_is_batch_invariant_and_one_whose_do_is_not():
    mixing = graph_of(
        [
            helper.make_node("ReduceMean", ["input", "axes"], ["m"], keepdims=0),
            helper.make_node("ReduceMean", ["m", "first"], ["of_batch"], keepdims=1),
            helper.make_node("Sub", ["m", "of_batch"], ["logits"]),
            helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
        ],
        {"axes": np.array([1, 2]), "first": np.array([0])},
    )

    assert measure.is_batch_invariant(session_of(convolutional()), rows(8))
    assert not measure.is_batch_invariant(session_of(mixing), rows(8))
