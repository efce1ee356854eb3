import numpy as np
import pytest
from onnx import helper

from tests.convert.onnx_graphs import convolutional, graph_of, rows, stored_types
from tfpipe.convert.half import to_float16
from tfpipe.convert.quantize import to_int8
from tfpipe.convert.recipe import Recipe
from tfpipe.convert.weights import list_weights, weight_bytes


def _variants():
    half, kept = to_float16(convolutional())
    yield "fp32", convolutional(), {}
    yield "fp16", half, kept
    for recipe in (Recipe("all", "minmax"), Recipe("all", "percentile", keep_depthwise=True)):
        yield "int8", to_int8(convolutional(), [{"input": rows()}], recipe), {}


@pytest.mark.parametrize(("precision", "model", "reasons"), list(_variants()))
def test_every_stored_weight_is_listed_as_converted_in_that_format_or_kept_with_a_reason(precision, model, reasons):
    listed = list_weights(model, precision, reasons)

    stored = stored_types(model)
    expected = {"fp32": {"float32"}, "fp16": {"float16"}, "int8": {"int8", "uint8"}}[precision]
    assert listed["converted"]
    assert all(stored[name] == dtype and dtype in expected for name, dtype in listed["converted"].items())
    assert all(reason.split(": ", 1)[1] for reason in listed["kept"].values())
    # Shapes and axes are no weights; scales and zero points belong to the weight that they scale.
    weights = {
        name
        for name, dtype in stored.items()
        if dtype not in ("int64", "bool") and not name.endswith(("_scale", "_zero_point"))
    }
    assert weights == listed["converted"].keys() | listed["kept"].keys()


def test_the_reasons_name_what_keeps_a_weight():
    quantised = to_int8(convolutional(), [{"input": rows()}], Recipe("all", "percentile", keep_depthwise=True))

    kept = list_weights(quantised, "int8", {})["kept"]

    assert kept["depthwise/kernel"] == "float32: depthwise convolutions were kept, for accuracy"
    assert kept["conv/bias_quantized"] == "int32: a bias, added to int32 sums of products"


def test_a_weight_that_nothing_uses_is_listed_too():
    nodes = [
        helper.make_node("ReduceMean", ["input", "axes"], ["m"], keepdims=0),
        helper.make_node("Softmax", ["m"], ["probabilities"], axis=-1),
    ]
    model = graph_of(nodes, {"axes": np.array([1, 2]), "spare": np.zeros(2, np.float32)})

    half, reasons = to_float16(model)

    assert list_weights(half, "fp16", reasons)["kept"] == {"spare": "float32: no operator uses it"}


def test_weight_bytes_count_numbers_and_not_shapes():
    model = convolutional()

    assert weight_bytes(model) == 4 * (16 * 3 * 9 + 16 + 16 * 9 + 16 * 3 + 3)


def test_half_precision_halves_the_bytes_and_int8_quarters_those_of_kernels():
    whole = weight_bytes(convolutional())
    quantised = to_int8(convolutional(), [{"input": rows()}], Recipe("all", "minmax"))

    assert weight_bytes(to_float16(convolutional())[0]) == whole / 2
    # The scales of so small a model weigh as much as some of its weights.
    assert weight_bytes(quantised) < whole / 2
