"""Properties 9 and 12 over random small networks, in every precision and by every kind of INT8 recipe."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from tests.convert.onnx_graphs import rows, stored_types
from tests.convert.random_graphs import GraphBuilder, graphs
from tfpipe.convert.islands import to_float16_within
from tfpipe.convert.onnx_file import file_bytes, save_model
from tfpipe.convert.passes import run_passes, standard_passes
from tfpipe.convert.quantize import to_int8
from tfpipe.convert.recipe import Recipe
from tfpipe.convert.weights import list_weights, weight_bytes
from tfpipe.core.parity import BOUNDS

INPUTS = [{"input": rows(4)}]
RECIPES = tuple(
    Recipe(operators, method, per_channel, activations, reduce_range, keep_depthwise)
    for operators, method in (("all", "minmax"), ("all", "percentile"), ("products", "minmax"), ("products", "dynamic"))
    for per_channel in (True, False)
    for activations in (("uint8",) if method == "dynamic" else ("uint8", "int8"))
    for reduce_range in (False, True)
    for keep_depthwise in ((False, True) if operators == "all" else (False,))
)
# What is no weight: shapes, axes, flags, and what belongs to a weight that it scales.
NO_WEIGHTS = ("int64", "bool")
PARAMETERS = ("_scale", "_zero_point")


def _float32(graph):
    """As a conversion has it before it is quantised."""
    return run_passes(graph, standard_passes(18), inputs=INPUTS)[0]


def _converted(graph, recipe):
    """(precision, graph, reasons that the converter gave); None: half precision."""
    if recipe is None:
        half = to_float16_within(graph, INPUTS, BOUNDS["fp16"])
        return "fp16", half.model, half.kept
    return "int8", to_int8(graph, INPUTS, recipe), {}


# Feature: deep-learning-pipeline, Property 9: Quantization format
@pytest.mark.slow
@settings(max_examples=100)
@given(graph=graphs(max_blocks=2), recipe=st.none() | st.sampled_from(RECIPES))
def test_every_weight_is_stored_in_the_format_it_is_listed_with_and_every_other_is_listed_with_a_reason(graph, recipe):
    precision, converted, reasons = _converted(_float32(graph), recipe)

    listed = list_weights(converted, precision, reasons)

    stored = stored_types(converted)
    formats = {"float16"} if precision == "fp16" else {"int8", "uint8"}
    assert listed["converted"]
    for name, dtype in listed["converted"].items():
        assert stored[name] == dtype
        assert dtype in formats
    for name, reason in listed["kept"].items():
        assert stored[name] not in formats
        dtype, _, why = reason.partition(": ")
        assert (dtype, bool(why.strip())) == (stored[name], True)
    assert not listed["converted"].keys() & listed["kept"].keys()
    everything = {name for name, dtype in stored.items() if dtype not in NO_WEIGHTS and not name.endswith(PARAMETERS)}
    assert everything == listed["converted"].keys() | listed["kept"].keys()


@st.composite
def networks(draw):
    """Networks whose operators sum over at least 16 numbers, in any mixture of kinds; (graph, bytes of its weights).

    A scale, a zero point and a bias weigh 13 bytes a channel in INT8: fewer numbers than that are not halved, which is
    what the gate's limit on size is for.
    """
    builder = GraphBuilder(draw(st.integers(0, 2**32 - 1)))
    x, channels = builder.add("Transpose", "input", perm=[0, 3, 1, 2]), 3
    widths = draw(st.lists(st.sampled_from([16, 24, 32]), min_size=1, max_size=3))
    for width in widths:
        x, channels = builder.conv(x, channels, width), width
        x = builder.batch_norm(x, channels) if draw(st.booleans()) else x
        x = builder.activation(x, draw(st.sampled_from(["relu", "gelu_divided", "swish"])))
    hidden = draw(st.sampled_from([(), (64,), (512, 560), (1200, 256)]))
    builder.head(x, channels, hidden)
    return builder.build()


# Feature: deep-learning-pipeline, Property 12: Size reduction
@pytest.mark.slow
@settings(max_examples=100)
@given(
    graph=networks(),
    recipe=st.none() | st.sampled_from([recipe for recipe in RECIPES if recipe.operators == "all"]),
)
def test_weights_shrink_by_half_and_files_of_a_megabyte_and_more_to_the_promised_share(tmp_path_factory, graph, recipe):
    folder = tmp_path_factory.mktemp("sizes")
    float32 = _float32(graph)

    precision, converted, _ = _converted(float32, recipe)
    for name, model in (("fp32", float32), (precision, converted)):
        save_model(model, folder / name)

    assert weight_bytes(converted) <= 0.5 * weight_bytes(float32)
    whole = file_bytes(folder / "fp32")
    if whole >= 1_000_000:
        limit = 0.51 if precision == "fp16" else 0.50
        assert file_bytes(folder / precision) <= limit * whole


def test_networks_of_both_sizes_are_drawn():
    # The property on files says nothing of smaller ones.
    for hidden, is_large in (((), False), ((512, 560), True), ((1200, 256), True)):
        builder = GraphBuilder(1)
        builder.head(builder.add("Transpose", "input", perm=[0, 3, 1, 2]), 3, hidden)

        assert (weight_bytes(builder.build()) >= 1_000_000) == is_large


def test_what_an_int8_weight_is_multiplied_out_to_is_what_it_was():
    # The format alone would be kept by zeros.
    builder = GraphBuilder(3)
    x = builder.activation(builder.conv(builder.add("Transpose", "input", perm=[0, 3, 1, 2]), 3, 16), "relu")
    builder.head(x, 16, ())
    graph = builder.build()

    exact = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.graph.initializer}
    stored = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in to_int8(graph, INPUTS, Recipe("all", "minmax")).graph.initializer
    }

    scale = stored["w0_scale"].reshape(-1, 1, 1, 1)
    assert np.abs(stored["w0_quantized"] * scale - exact["w0"]).max() <= scale.max() / 2 + 1e-7
