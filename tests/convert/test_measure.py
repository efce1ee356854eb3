import numpy as np
import pytest
from onnx import helper

from tests.convert.onnx_graphs import convolutional, graph_of, rows
from tests.convert.random_models import config_of, random_parts
from tests.models.text_networks import randomised, text_network
from tests.samples import ArraySource
from tests.text.texts import CORPUS
from tfpipe.convert import measure
from tfpipe.convert.images import ImageConversion, ImageExamples
from tfpipe.convert.texts import TextExamples
from tfpipe.core.errors import DataError
from tfpipe.core.words import split_words
from tfpipe.data.text import TaggedText, TextRow, TextSource
from tfpipe.models.assembly import assemble_text
from tfpipe.models.text_zoo import Tokens
from tfpipe.ort import open_session
from tfpipe.tasks.single_label import SingleLabel
from tfpipe.tasks.tagging import Tagging
from tfpipe.text.tokenizer import open_saved
from tfpipe.text.train_tokenizer import train_tokenizer

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


TAGS = ("O", "B-X", "I-X")


@pytest.fixture(scope="module")
def tagger(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(CORPUS, kind="bpe", vocabulary_size=400).save(folder)
    saved = open_saved(folder)
    tokens = Tokens(saved.tokenizer.vocabulary_size, saved.tokenizer.pad_id, 24)
    network = randomised(text_network(per_token=True, tokens=tokens))
    return assemble_text(saved, network, Tagging(TAGS), max_length=24)


class Answers:
    """Stands for the model graph of a Keras model."""

    def __init__(self, parts):
        self._parts = parts

    def run(self, inputs):
        return {"probabilities": np.asarray(self._parts.model(inputs["input"], training=False))}


def tagged_texts(max_chars):
    rows = []
    for number, text in enumerate([*CORPUS, "fox", "the fox " * 20, "x" * 200]):
        starts, ends = split_words(text)
        tags = tuple(TAGS[(number + word) % 3] for word in range(len(starts)))
        rows.append(TextRow(f"text/{number}", TaggedText(text, tuple(starts), tuple(ends), tags)))
    return TextSource(rows, TAGS, kind="tags", max_chars=max_chars, where="test")


def test_tagged_texts_are_scored_in_batches_as_each_alone(tagger):
    source, task = tagged_texts(max_chars=180), tagger.task
    examples = TextExamples(source, tagger)

    scores = measure.score({"fp32": Answers(tagger)}, examples, task, max_corrupt_fraction=0.1)

    alone = np.zeros(task.tally_shape())
    for index in range(len(source) - 1):
        one = TextExamples(source.take([index]), tagger)
        ((rows, labels, _),) = one.batches()
        predictions = np.asarray(task.predictions(labels, Answers(tagger).run({"input": rows})["probabilities"]))
        alone += task.tally(labels, predictions, np.ones(1))
    assert (scores.num_samples, scores.num_corrupt) == (len(source) - 1, 1)
    np.testing.assert_array_equal(scores.tallies["fp32"], alone)
    assert scores.headline("fp32") == scores.metrics("fp32")["f1"]
    assert scores.agreement("fp32") == 1.0


def test_too_many_texts_that_are_too_long_are_an_error_that_names_the_first(tagger):
    examples = TextExamples(tagged_texts(max_chars=20), tagger)

    with pytest.raises(DataError, match=r"samples cannot be read, .*; the first: text/0: expected at most 20 char"):
        measure.score({"fp32": Answers(tagger)}, examples, tagger.task, max_corrupt_fraction=0.1)


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
