from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from tests.convert.onnx_graphs import answers, convolutional, graph_of, rows, stored_types
from tfpipe.convert import quantize
from tfpipe.convert.quantize import Quantizer, is_depthwise
from tfpipe.convert.recipe import Recipe
from tfpipe.core.errors import ConversionError, DataError
from tfpipe.core.parity import BOUNDS, assert_parity

MINMAX = Recipe("all", "minmax")
PRODUCTS = Recipe("products", "minmax")
DYNAMIC = Recipe("products", "dynamic")


def to_int8(model, samples, recipe):
    batches = [{"input": samples[start : start + 4]} for start in range(0, len(samples), 4)]
    return quantize.to_int8(model, batches, recipe)


def _zero_point_types(model):
    """dtype of the zero point by quantised tensor: activations by QuantizeLinear, weights by DequantizeLinear alone."""
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    activations, weights = {}, {}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            activations[node.input[0]] = str(stored[node.input[2]].dtype)
        elif node.op_type == "DequantizeLinear" and node.input[0] in stored:
            weights[node.input[0]] = (str(stored[node.input[0]].dtype), stored[node.input[1]].size)
    return activations, weights


def test_activations_are_unsigned_and_weights_signed_with_a_scale_per_channel():
    activations, weights = _zero_point_types(to_int8(convolutional(), rows(), MINMAX))

    assert set(activations.values()) == {"uint8"}
    assert {name: kind for name, kind in weights.items() if "kernel" in name} == {
        "conv/kernel_quantized": ("int8", 16),
        "depthwise/kernel_quantized": ("int8", 16),
        "dense/kernel_quantized": ("int8", 3),
    }


def test_one_scale_a_weight_where_it_is_asked_for():
    _, weights = _zero_point_types(to_int8(convolutional(), rows(), Recipe("all", "minmax", per_channel=False)))

    assert weights["conv/kernel_quantized"] == ("int8", 1)


@pytest.mark.parametrize("op_type", ["Softmax", "Sigmoid"])
def test_answers_are_computed_in_float(op_type):
    nodes = [
        helper.make_node("ReduceMean", ["input", "axes"], ["m"], keepdims=0),
        helper.make_node("MatMul", ["m", "kernel"], ["logits"]),
        helper.make_node(op_type, ["logits"], ["probabilities"]),
    ]
    model = graph_of(nodes, {"axes": np.array([1, 2]), "kernel": np.eye(3, dtype=np.float32)})

    quantised = to_int8(model, rows(), MINMAX)

    assert "kernel_quantized" in stored_types(quantised)
    answer = next(node for node in quantised.graph.node if node.op_type == op_type)
    assert list(answer.output) == ["probabilities"]


def test_small_probabilities_survive():
    nodes = [
        helper.make_node("ReduceMean", ["input", "axes"], ["m"], keepdims=0),
        helper.make_node("MatMul", ["m", "kernel"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
    ]
    model = graph_of(nodes, {"axes": np.array([1, 2]), "kernel": np.diag([0.0, -9.0, -9.0]).astype(np.float32)})
    calibration = np.ones((4, 8, 8, 3), np.float32)

    smallest = answers(to_int8(model, calibration, MINMAX), calibration)[0, 1]

    # 1/255 is what a quantised Softmax can tell from 0.
    assert 0 < smallest < 1e-3


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy"])
def test_every_calibration_method_gives_a_model_that_answers_alike(method):
    quantised = to_int8(convolutional(), rows(), Recipe("all", method))

    onnx.checker.check_model(quantised)
    reference = answers(convolutional(), rows())
    assert (answers(quantised, rows()).argmax(axis=1) == reference.argmax(axis=1)).mean() > 0.9


def test_depthwise_convolutions_are_kept_in_float_where_the_recipe_says_so():
    quantised = to_int8(convolutional(), rows(), Recipe("all", "percentile", keep_depthwise=True))

    stored = stored_types(quantised)
    assert stored["depthwise/kernel"] == "float32"
    assert stored["conv/kernel_quantized"] == "int8"


def test_a_convolution_of_all_channels_is_not_taken_for_depthwise():
    model = convolutional()
    weights = {tensor.name: tensor for tensor in model.graph.initializer}

    assert [node.name for node in model.graph.node if is_depthwise(node, weights)] == ["depthwise"]


def test_names_axes_and_metadata_are_those_of_the_float_graph():
    model = convolutional()
    onnx.helper.set_model_props(model, {"labels": '["a", "b", "c"]'})

    quantised = to_int8(model, rows(), MINMAX)

    assert list(quantised.graph.input) == list(model.graph.input)
    assert list(quantised.graph.output) == list(model.graph.output)
    assert {entry.key: entry.value for entry in quantised.metadata_props} == {"labels": '["a", "b", "c"]'}


def test_rows_get_the_same_answer_alone_as_in_a_batch():
    quantised = to_int8(convolutional(), rows(), MINMAX)

    together = answers(quantised, rows())
    alone = np.concatenate([answers(quantised, row[None]) for row in rows()])
    np.testing.assert_array_equal(together, alone)


def test_quantisation_is_repeatable():
    first, second = (to_int8(convolutional(), rows(), MINMAX) for _ in range(2))

    assert first.SerializeToString() == second.SerializeToString()


def test_a_graph_that_cannot_be_quantised_is_refused_in_one_sentence():
    with pytest.raises(ConversionError, match="int8: expected a graph that can be quantised; "):
        quantize.to_int8(convolutional(), [{"input": rows(), "other": rows()}], MINMAX)


# Recipes beside the default.


def test_signed_activations_where_they_are_asked_for():
    activations, weights = _zero_point_types(
        to_int8(convolutional(), rows(), Recipe("all", "minmax", activations="int8"))
    )

    assert set(activations.values()) == {"int8"}
    assert weights["conv/kernel_quantized"] == ("int8", 16)


def test_a_reduced_range_stores_weights_of_7_bits():
    stored = {}
    for reduce_range in (False, True):
        quantised = to_int8(convolutional(), rows(), Recipe("all", "minmax", reduce_range=reduce_range))
        tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in quantised.graph.initializer}
        stored[reduce_range] = int(np.abs(tensors["conv/kernel_quantized"].astype(int)).max())

    assert stored[True] <= 64 < stored[False]


@pytest.mark.parametrize("recipe", [MINMAX, PRODUCTS, DYNAMIC], ids=lambda recipe: recipe.title)
def test_nodes_that_are_kept_stay_in_float(recipe):
    quantised = to_int8(convolutional(), rows(), replace(recipe, keep=("conv", "dense")))

    stored = stored_types(quantised)
    assert (stored["conv/kernel"], stored["dense/kernel"]) == ("float32", "float32")
    onnx.checker.check_model(quantised)


def test_where_every_node_is_kept_the_answers_are_those_of_float():
    quantised = to_int8(convolutional(), rows(), replace(PRODUCTS, keep=("conv", "depthwise", "dense")))

    assert_parity(answers(quantised, rows()), answers(convolutional(), rows()), BOUNDS["fp32"], where="all kept")


def test_only_what_goes_into_a_product_is_rounded_where_a_recipe_says_so():
    quantised = to_int8(convolutional(), rows(), PRODUCTS)

    rounded = {node.output[0] for node in quantised.graph.node if node.op_type == "DequantizeLinear"}
    readers = {node.op_type for node in quantised.graph.node if rounded & set(node.input)}
    assert readers == {"Conv", "Gemm"}


def test_a_dynamic_recipe_needs_no_samples():
    quantised = to_int8(convolutional(), rows(0), DYNAMIC)

    assert stored_types(quantised)["dense/kernel_quantized"] == "int8"
    assert "MatMulInteger" in {node.op_type for node in quantised.graph.node}
    assert np.isfinite(answers(quantised, rows())).all()


def test_one_calibration_serves_every_recipe_with_its_method():
    class Counted(list):
        read = 0

        def __iter__(self):
            Counted.read += 1
            return super().__iter__()

    with Quantizer(convolutional(), Counted([{"input": rows()}])) as quantizer:
        several = [quantizer.quantize(recipe) for recipe in (MINMAX, replace(MINMAX, per_channel=False), MINMAX)]

    assert Counted.read == 1
    assert several[0] == several[2]
    assert several[0] == to_int8(convolutional(), rows(), MINMAX)


# Calibration.


def test_without_calibration_samples_a_static_recipe_is_refused_and_a_dynamic_one_is_not():
    with Quantizer(convolutional(), []) as quantizer:
        with pytest.raises(DataError, match=r"calibration: expected training samples, .* received none"):
            quantizer.quantize(MINMAX)

        assert quantizer.quantize(DYNAMIC).graph.node


@pytest.mark.parametrize(
    ("feed", "message"),
    [
        ({"input": rows()[:, :7]}, r"expected float32 of shape \(batch, 8, 8, 3\), received float32 of shape \(16, 7"),
        ({"input": rows().astype(np.float64)}, r"expected float32 .* received float64"),
        ({"rows": rows()}, r"no 'input'"),
    ],
)
def test_calibration_samples_of_another_shape_are_refused(feed, message):
    with Quantizer(convolutional(), [feed]) as quantizer, pytest.raises(DataError, match=f"do not fit.*{message}"):
        quantizer.quantize(MINMAX)
