import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from onnx import helper, numpy_helper

from tests.convert.onnx_graphs import answers, convolutional, deep, graph_of, rows
from tests.convert.random_graphs import graphs
from tests.full_disk import files_of_at_most
from tests.memory import peak_of_memory
from tfpipe.convert.onnx_file import (
    file_bytes,
    light_copy,
    open_graph,
    restore_tensors,
    save_model,
    stored_bytes,
    without_tensors,
)
from tfpipe.convert.rewrites.fold import RuntimeRewrites
from tfpipe.core import atomic
from tfpipe.core.errors import BundleError
from tfpipe.ort import open_session

# In place of 2 GB.
LIMIT = 1000


def _copy(model):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy


def test_numbers_beyond_one_message_lie_beside_the_graph_which_is_opened_by_its_path(tmp_path):
    model, path = convolutional(), tmp_path / "model.fp32.onnx"
    before = _copy(model)

    save_model(model, path, max_message_bytes=LIMIT)

    assert model == before
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["model.fp32.onnx", "model.fp32.onnx.data"]
    assert file_bytes(path) == sum(entry.stat().st_size for entry in tmp_path.iterdir())
    assert path.stat().st_size < stored_bytes(model)
    given_rows = rows()
    received = open_session(path, provider="cpu").run({"input": given_rows})["probabilities"]
    np.testing.assert_array_equal(received, answers(model, given_rows))
    onnx.checker.check_model(str(path), full_check=True)
    # The library puts the numbers back.
    assert {tensor.name for tensor in onnx.load(path).graph.initializer} == {t.name for t in model.graph.initializer}


def test_bytes_are_those_of_all_numbers_however_they_are_stored():
    numbers = np.arange(30)
    tensors = [
        numpy_helper.from_array(numbers.astype(np.float32), "raw"),
        helper.make_tensor("fields", onnx.TensorProto.FLOAT, [5, 6], numbers),
        numpy_helper.from_array(numbers.astype(np.float16), "half"),
        helper.make_tensor("bits", onnx.TensorProto.INT4, [3], [1, -2, 3]),
        numpy_helper.from_array(np.empty((0, 4), np.float32), "none"),
    ]
    model = onnx.helper.make_model(helper.make_graph([], "g", [], [], tensors))

    assert stored_bytes(model) == 120 + 120 + 60 + 2


def test_a_small_graph_is_one_file(tmp_path):
    path = tmp_path / "model.onnx"

    save_model(convolutional(), path)

    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]
    assert onnx.load(path) == convolutional()
    assert file_bytes(path) == path.stat().st_size


def test_a_file_written_again_holds_nothing_of_the_older_one(tmp_path):
    path = tmp_path / "model.onnx"
    for _ in range(2):
        save_model(convolutional(), path, max_message_bytes=LIMIT)
    size = file_bytes(path)

    save_model(convolutional(), path)

    assert [entry.name for entry in tmp_path.iterdir()] == ["model.onnx"]
    assert size < 2 * file_bytes(path)


def test_a_graph_too_large_for_one_message_is_opened_all_the_same():
    model, given_rows = convolutional(), rows()

    session = open_graph(model, threads=1, max_message_bytes=LIMIT)

    np.testing.assert_array_equal(session.run({"input": given_rows})["probabilities"], answers(model, given_rows))


def test_an_open_graph_holds_its_weights_once():
    model = deep(layers=6, width=2048)

    with peak_of_memory() as grown:
        session = open_graph(model, threads=1)

    assert session.input_names == ["input"]
    # Once, in the order that products take them; three times where ONNX Runtime is given a message.
    assert grown[0] < 1.7 * stored_bytes(model)


def test_a_graph_may_be_opened_with_the_tensors_of_another_one():
    model, given_rows = convolutional(), rows()
    light = without_tensors(model)

    for most in (LIMIT, 1 << 30):
        session = open_graph(light, tensors=model.graph.initializer, max_message_bytes=most)
        np.testing.assert_array_equal(session.run({"input": given_rows})["probabilities"], answers(model, given_rows))

    assert light.ByteSize() < LIMIT * 2
    assert not light.graph.initializer


def test_a_graph_that_does_not_load_is_not_called_by_the_file_that_is_gone_by_then():
    broken = without_tensors(convolutional())

    with pytest.raises(BundleError, match=r"^the model: expected .* ONNX Runtime can load"):
        open_graph(broken, max_message_bytes=-1)


def test_texts_stay_in_the_graph(tmp_path):
    words, path = np.array([f"word {number}" for number in range(500)], object), tmp_path / "model.onnx"
    nodes = [
        helper.make_node("Gather", ["words", "places"], ["two"]),
        helper.make_node("Shape", ["two"], ["count"]),
        helper.make_node("Cast", ["count"], ["one"], to=onnx.TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["input", "axes"], ["mean"], keepdims=0),
        helper.make_node("Mul", ["mean", "one"], ["probabilities"]),
    ]
    model = graph_of(nodes, {"words": words, "places": np.array([7, 8]), "axes": np.array([1, 2])})

    save_model(model, path, max_message_bytes=LIMIT)

    assert onnx.load(path) == model
    received = open_session(path, provider="cpu").run({"input": rows(2)})["probabilities"]
    np.testing.assert_array_equal(received, answers(model, rows(2)))


def test_a_graph_too_large_for_one_message_is_rewritten_all_the_same():
    model, given_rows = convolutional(), rows()
    expected = RuntimeRewrites("all")(_copy(model))

    received = RuntimeRewrites("all", max_message_bytes=LIMIT)(model)

    assert [node.op_type for node in received.graph.node] == [node.op_type for node in expected.graph.node]
    np.testing.assert_array_equal(answers(received, given_rows), answers(expected, given_rows))


@pytest.mark.parametrize("max_message_bytes", [LIMIT, None])
def test_a_full_disk_leaves_nothing(tmp_path, max_message_bytes):
    options = {} if max_message_bytes is None else {"max_message_bytes": max_message_bytes}

    with pytest.raises(OSError, match="bundle"), files_of_at_most(500):  # noqa: SIM117 - staged within the limit
        with atomic.staged_folder(tmp_path / "bundle") as staging:
            save_model(convolutional(), staging / "model.onnx", **options)

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("max_message_bytes", [LIMIT, 1 << 30])
def test_a_full_disk_is_said_where_a_graph_is_rewritten_and_not_taken_for_a_broken_graph(max_message_bytes):
    with pytest.raises(OSError, match="too large"), files_of_at_most(500):
        RuntimeRewrites("all", max_message_bytes=max_message_bytes)(convolutional())


@settings(max_examples=25)
@given(graph=graphs())
def test_a_light_copy_is_valid_and_becomes_the_whole_graph_again(graph):
    before = _copy(graph)

    light = light_copy(graph)
    onnx.checker.check_model(light, full_check=True)
    smaller = light.ByteSize()
    restore_tensors(light, graph)

    assert graph == before
    assert smaller <= before.ByteSize()
    assert list(light.graph.node) == list(before.graph.node)
    assert list(light.graph.input) == list(before.graph.input)
    key = lambda tensor: tensor.name  # noqa: E731
    assert sorted(light.graph.initializer, key=key) == sorted(before.graph.initializer, key=key)
