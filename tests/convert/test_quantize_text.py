import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.convert.onnx_graphs import stored_types
from tests.convert.text_networks import (
    FAMILIES,
    TRANSFORMERS,
    graph_of_family,
    graph_of_network,
    labelled_rows,
    onnx_answers,
    rows_of,
    trained_network,
)
from tfpipe.convert import quantize
from tfpipe.convert.measure import is_batch_invariant, neighbours_difference
from tfpipe.convert.recipe import Recipe
from tfpipe.convert.weights import list_weights, weight_bytes
from tfpipe.core.errors import ConversionError
from tfpipe.core.parity import BOUNDS, assert_parity
from tfpipe.ort import open_session

pytestmark = pytest.mark.tensorflow

STATIC = Recipe("products", "minmax")
PERCENTILE = Recipe("products", "percentile")
DYNAMIC = Recipe("products", "dynamic")
BATCHES = [rows_of(9, 20, 3, 14, seed=seed) for seed in range(4)]


def text_to_int8(graph, batches, recipe):
    return quantize.to_int8(graph, [{"input": batch} for batch in batches], recipe)


def _int8(family, recipe=STATIC, *, per_token=False):
    return text_to_int8(graph_of_family(family, per_token=per_token), BATCHES, recipe)


@pytest.fixture(scope="module", params=["text_cnn", "bert"])
def learnt(request):
    """A network that has learnt something: its graph, calibration batches, and rows that it has not seen."""
    graph = graph_of_network(trained_network(request.param))
    rows, _ = labelled_rows(64, seed=1)
    return graph, [rows[start : start + 16] for start in range(0, 64, 16)], labelled_rows(300, seed=2)


@pytest.mark.parametrize("recipe", [STATIC, PERCENTILE, DYNAMIC], ids=lambda recipe: recipe.calibration_method)
def test_a_network_that_has_learnt_something_still_knows_it(learnt, recipe):
    graph, batches, (rows, labels) = learnt
    reference = onnx_answers(graph, rows)

    received = onnx_answers(text_to_int8(graph, batches, recipe), rows, disabled_optimizers=recipe.disabled_optimizers)

    accuracy, expected = ((answers.argmax(axis=1) == labels).mean() for answers in (received, reference))
    # Guessing is right one time in three.
    assert expected > 0.85
    assert accuracy >= expected - 0.02
    assert (received.argmax(axis=1) == reference.argmax(axis=1)).mean() >= 0.97


class Padded:
    """Rows that are padded to one length already."""

    def batch(self, rows):
        return np.stack(rows)

    def cut(self, probabilities, rows):
        return list(probabilities)


@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_static_answers_do_not_depend_on_the_rows_beside_them(family, per_token):
    quantized = _int8(family, per_token=per_token)

    onnx.checker.check_model(quantized, full_check=True)
    rows = rows_of(20, 4, 11, 1)
    session = open_session(quantized.SerializeToString(), provider="cpu")
    assert is_batch_invariant(neighbours_difference(session, Padded(), list(rows)))


@pytest.mark.parametrize("family", FAMILIES)
def test_static_answers_do_not_depend_on_how_far_a_row_is_padded(family):
    session = open_session(_int8(family).SerializeToString(), provider="cpu")

    answers = [session.run({"input": rows_of(7, to=length)})["probabilities"] for length in (7, 8, 16, 32)]

    for padded in answers[1:]:
        assert_parity(padded, answers[0], BOUNDS["fp32"], where=family)


def test_dynamic_answers_do_depend_on_them_and_the_recipe_says_so():
    session = open_session(_int8("bert", DYNAMIC, per_token=True).SerializeToString(), provider="cpu")

    assert not is_batch_invariant(neighbours_difference(session, Padded(), list(rows_of(20, 4, 11, 1))))
    assert DYNAMIC.is_dynamic
    assert not STATIC.is_dynamic


@pytest.mark.parametrize("recipe", [STATIC, DYNAMIC], ids=lambda recipe: recipe.calibration_method)
@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_large_stays_in_float(family, recipe):
    graph, quantized = graph_of_family(family), _int8(family, recipe)

    large = {
        tensor.name: tensor.data_type
        for tensor in quantized.graph.initializer
        if np.prod(tensor.dims) >= 1024 and not tensor.name.endswith("_scale")
    }
    assert large
    assert set(large.values()) == {onnx.TensorProto.INT8}
    assert weight_bytes(quantized) < 0.4 * weight_bytes(graph)


@pytest.mark.parametrize("family", TRANSFORMERS)
def test_products_inside_attention_stay_in_float(family):
    quantized = _int8(family)

    made = {name: node for node in quantized.graph.node for name in node.output}
    products = [node for node in quantized.graph.node if node.op_type == "MatMul"]
    inside = [node for node in products if made[node.input[1]].op_type != "DequantizeLinear"]
    # Two a layer, of two layers.
    assert len(inside) == 4
    assert all(made[node.input[0]].op_type != "DequantizeLinear" for node in inside)


def test_only_products_read_what_was_rounded():
    quantized = _int8("bert")

    stored = stored_types(quantized)
    rounded = {
        n.output[0] for n in quantized.graph.node if n.op_type == "DequantizeLinear" and n.input[0] not in stored
    }
    readers = {node.op_type for node in quantized.graph.node if rounded & set(node.input)}
    assert readers == {"MatMul", "Gemm"}
    # The sum past a layer, above all, is of exact numbers.
    assert rounded


def test_every_row_of_an_embedding_keeps_its_own_precision():
    graph = graph_of_family("text_cnn")
    table = next(tensor for tensor in graph.graph.initializer if "embeddings" in tensor.name)
    values = np.array(numpy_helper.to_array(table))
    # A rare word whose values are small, beside common ones; and a word of zeros.
    values[7] *= 1e-4
    values[8] = 0
    table.CopyFrom(numpy_helper.from_array(values, table.name))

    quantized = text_to_int8(graph, BATCHES, STATIC)

    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in quantized.graph.initializer}
    restored = stored[f"{table.name}_quantized"] * stored[f"{table.name}_scale"]
    step = np.abs(values).max(axis=1) / 127
    assert stored[f"{table.name}_quantized"].dtype == np.int8
    assert (np.abs(restored - values).max(axis=1) <= 0.51 * step).all()


def test_the_manifest_lists_no_scale_as_a_weight():
    for family, recipe in (("bert", STATIC), ("text_bilstm", DYNAMIC)):
        listed = list_weights(_int8(family, recipe), "int8", {})

        assert any("embedding" in name for name in listed["converted"])
        assert not any(name.endswith(("_scale", "_zero_point")) for part in listed.values() for name in part)


def test_names_axes_and_metadata_are_those_of_the_float_graph():
    for recipe in (STATIC, DYNAMIC):
        graph, quantized = graph_of_family("bert"), _int8("bert", recipe)

        assert list(quantized.graph.input) == list(graph.graph.input)
        assert list(quantized.graph.output) == list(graph.graph.output)
        assert list(quantized.metadata_props) == list(graph.metadata_props)


def test_quantisation_is_repeatable():
    for recipe in (STATIC, DYNAMIC):
        first, second = (_int8("bert", recipe).SerializeToString() for _ in range(2))

        assert first == second


def test_a_graph_that_cannot_be_quantised_is_refused_in_one_sentence():
    with pytest.raises(ConversionError, match="int8: expected a graph that can be quantised; "):
        text_to_int8(graph_of_family("text_cnn"), [np.full((2, 3), 10**6, np.int32)], STATIC)
