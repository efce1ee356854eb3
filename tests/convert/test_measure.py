import numpy as np
import pytest
from onnx import helper

from tests.convert.onnx_graphs import convolutional, graph_of, rows
from tests.convert.random_models import config_of, random_parts
from tests.samples import ArraySource
from tfpipe.convert import measure
from tfpipe.convert.images import ImageConversion, ImageExamples
from tfpipe.core.errors import DataError
from tfpipe.ort import open_session
from tfpipe.tasks.single_label import SingleLabel

pytestmark = pytest.mark.tensorflow


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


def scored(models, source):
    """A tenth of the samples may be unreadable."""
    examples = ImageExamples(FirstPixel(), source, 10_000)
    return measure.score(models, examples, SingleLabel(source.labels), max_corrupt_fraction=0.1)


def test_accuracy_is_the_share_of_right_answers_of_every_sample_once():
    models = {"fp32": Tells(lambda i: i % 2), "int8": Tells(lambda i: i % 2 if i >= 7 else 1 - i % 2)}

    scores = scored(models, ArraySource(70))

    # All that the tally holds of the labels: how many there are of each, and what was answered.
    assert scores.tallies["fp32"].tolist() == [[35, 0], [0, 35]]
    assert scores.tallies["int8"].tolist() == [[31, 4], [3, 32]]
    assert scores.predictions["fp32"].tolist() == [i % 2 for i in range(70)]
    assert [scores.metrics(name)["accuracy"] for name in ("fp32", "int8")] == [1.0, 0.9]
    assert (scores.headline("fp32"), scores.headline("int8")) == (1.0, 0.9)
    assert scores.agreement("int8") == 0.9
    assert (scores.num_samples, scores.num_corrupt) == (70, 0)


def test_unreadable_samples_are_left_out_and_counted():
    scores = scored({"fp32": Tells(lambda i: i % 2)}, ArraySource(40, corrupt=(1, 3, 38)))

    assert (scores.num_samples, scores.num_corrupt) == (37, 3)
    assert scores.predictions["fp32"].tolist() == [i % 2 for i in range(40) if i not in (1, 3, 38)]
    assert scores.tallies["fp32"].tolist() == [[19, 0], [0, 18]]


@pytest.mark.parametrize("corrupt", [range(5), range(40)])
def test_too_many_unreadable_samples_are_an_error_that_names_the_first(corrupt):
    with pytest.raises(DataError, match=rf"{len(corrupt)} of 40 samples cannot be read, more than .*; the first: sam"):
        scored({"fp32": Tells(lambda i: 0)}, ArraySource(40, corrupt=corrupt))


def test_latency_is_measured_for_one_row_and_for_eight():
    latency = measure.latency_ms(session_of(convolutional()), np.stack, list(rows(3)), runs=3)

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

    config = config_of("model.name=mlp")
    conversion = ImageConversion(random_parts(config), config)
    apart = [
        measure.neighbours_difference(session_of(graph), conversion, list(rows(8)))
        for graph in (convolutional(), mixing)
    ]

    assert [measure.is_batch_invariant(difference) for difference in apart] == [True, False]
