import collections

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from tests.convert.onnx_graphs import convolutional, graph_of, rows
from tests.convert.pass_contract import check_pass
from tests.convert.random_graphs import ACTIVATIONS, GraphBuilder, graphs
from tfpipe.convert.passes import PassResult, run_passes, standard_passes
from tfpipe.convert.rewrites.channels import WidenChannels
from tfpipe.convert.rewrites.fold import FOLD_BATCH_NORM, FOLD_CONSTANTS, FUSE_LAYER_NORM, SIMPLIFY, RuntimeRewrites
from tfpipe.convert.rewrites.gelu import FuseGelu
from tfpipe.convert.rewrites.opset import ConvertOpset, opset_of
from tfpipe.convert.rewrites.shapes import SettleShapes
from tfpipe.convert.rewrites.weights import MergeWeights
from tfpipe.core.errors import ConversionError

INPUTS = rows(3)
OPSETS = (18, 21, 23)


def _types(model):
    return collections.Counter(node.op_type for node in model.graph.node)


def _graph(build):
    builder = GraphBuilder(1)
    x = build(builder, builder.add("Transpose", "input", perm=[0, 3, 1, 2]))
    builder.head(x, 3, ())
    return builder.build()


@settings(max_examples=40)
@given(graph=graphs(), data=st.data())
def test_every_pass_leaves_a_valid_graph_of_the_same_answers_and_is_done_at_once(graph, data):
    graph_pass = data.draw(st.sampled_from(standard_passes(data.draw(st.sampled_from(OPSETS)))))

    check_pass(graph_pass, graph, INPUTS)


@settings(max_examples=25)
@given(graph=graphs(), opset=st.sampled_from(OPSETS))
def test_all_passes_together_leave_no_more_nodes_and_find_no_fewer_the_second_time(graph, opset):
    num_nodes = len(graph.graph.node)

    once, _ = run_passes(graph, standard_passes(opset), inputs=[{"input": INPUTS}])
    types = _types(once)
    twice, _ = run_passes(once, standard_passes(opset), inputs=[{"input": INPUTS}])

    assert sum(types.values()) <= num_nodes
    assert opset_of(once) == opset
    # Equal scalars may be shared once more; no operator is changed.
    assert _types(twice) == types


# What each is for.


def test_nodes_without_effect_are_removed():
    def build(builder, x):
        for kind in ("identity", "cast", "transposes", "unused"):
            x = builder.clutter(x, kind, 3)
        return builder.add("Relu", x)

    model, num_changed = check_pass(SIMPLIFY, _graph(build), INPUTS)

    assert num_changed
    assert not _types(model).keys() & {"Identity", "Cast", "Exp"}
    assert _types(model)["Transpose"] <= 1


def test_constants_are_worked_out_once():
    model, _ = check_pass(FOLD_CONSTANTS, _graph(lambda builder, x: builder.clutter(x, "constant", 3)), INPUTS)

    assert "Neg" not in _types(model)


def test_batch_normalisation_becomes_part_of_its_convolution():
    model, _ = check_pass(
        FOLD_BATCH_NORM, _graph(lambda builder, x: builder.batch_norm(builder.conv(x, 3, 3), 3)), INPUTS
    )

    assert "BatchNormalization" not in _types(model)
    assert _types(model)["Conv"] == 1


def test_the_textbook_form_of_layer_normalisation_becomes_one_operator():
    model, _ = check_pass(FUSE_LAYER_NORM, _graph(lambda builder, x: builder.layer_norm(x, 8)), INPUTS)

    assert _types(model)["LayerNormalization"] == 1
    assert "Sqrt" not in _types(model)


@pytest.mark.parametrize("form", [name for name in ACTIVATIONS if name.startswith("gelu")])
@pytest.mark.parametrize(("opset", "num_nodes"), [(18, 5), (20, 1)])
def test_gelu_in_any_order_of_its_factors_becomes_one_operator_or_the_five_that_are_recognised(form, opset, num_nodes):
    model = ConvertOpset(opset)(_graph(lambda builder, x: builder.activation(x, form)))
    plain = len(_graph(lambda builder, x: x).graph.node)

    fused, _ = check_pass(FuseGelu(), model, INPUTS)

    assert len(fused.graph.node) - plain == num_nodes
    assert _types(fused)["Gelu"] == (1 if opset == 20 else 0)
    assert _runtime_fuses_gelu(fused)


def _runtime_fuses_gelu(model):
    from tests.convert.loaded import types_as_loaded

    return bool({"Gelu", "BiasGelu"} & types_as_loaded(model))


@pytest.mark.parametrize("factor", [0.4, 0.6])
def test_what_only_looks_like_gelu_is_left_alone(factor):
    def build(builder, x):
        total = builder.add(
            "Add", builder.number(1), builder.add("Erf", builder.add("Mul", x, builder.number(0.5**0.5)))
        )
        return builder.add("Mul", builder.add("Mul", builder.number(factor), x), total)

    _, num_changed = check_pass(FuseGelu(), _graph(build), INPUTS)

    assert num_changed == 0


def test_a_shape_that_is_known_but_for_the_batch_is_stored():
    model, _ = check_pass(SettleShapes(), _graph(lambda b, x: b.clutter(x, "computed_reshape", 3)), INPUTS)

    stored = {tensor.name: numpy_helper.to_array(tensor).tolist() for tensor in model.graph.initializer}
    assert [stored[node.input[1]] for node in model.graph.node if node.op_type == "Reshape"] == [[0, 3, 8, 8]]
    assert not _types(model).keys() & {"Shape", "Gather", "Concat"}


@pytest.mark.parametrize("shape", [(3,), (1, 1, 3), (1, 1, 1, 3)])
@pytest.mark.parametrize("op_type", ["Add", "Sub", "Mul", "Div"])
def test_a_constant_of_a_few_channels_is_stored_once_for_each_pixel_of_a_row(op_type, shape):
    nodes = [
        helper.make_node(op_type, ["input", "of channels"], ["left"]),
        helper.make_node(op_type, ["of channels", "left"], ["both"]),
        helper.make_node("Add", ["both", "number"], ["shifted"]),
        helper.make_node("ReduceMean", ["shifted", "axes"], ["probabilities"], keepdims=0),
    ]
    weights = {
        "of channels": np.array([0.3, -0.7, 1.9], np.float32).reshape(shape),
        "number": np.float32([0.5]),
        "axes": np.array([1, 2]),
    }

    once, num_changed = check_pass(WidenChannels(), graph_of(nodes, weights), rows(5))

    widths = {stored.name: list(stored.dims) for stored in once.graph.initializer}
    assert num_changed
    assert widths == {"number": [1], "axes": [2], "left/wide": [8, 3], "both/wide": [8, 3]}


def test_equal_large_weights_are_stored_once_and_small_ones_keep_their_names():
    kernel = np.random.default_rng(0).normal(size=(20, 20)).astype(np.float32)
    nodes = [
        helper.make_node("ReduceMean", ["input", "axes"], ["m"], keepdims=0),
        helper.make_node("MatMul", ["m", "widen"], ["a"]),
        helper.make_node("MatMul", ["a", "first"], ["b"]),
        helper.make_node("Add", ["b", "zeros"], ["c"]),
        helper.make_node("MatMul", ["c", "second"], ["d"]),
        helper.make_node("Add", ["d", "nothing"], ["e"]),
        helper.make_node("MatMul", ["e", "narrow"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
    ]
    weights = {"axes": np.array([1, 2]), "widen": kernel[:3], "narrow": kernel[:, :3].copy()}
    weights |= {"first": kernel, "second": kernel.copy(), "zeros": np.zeros(20, np.float32)}
    weights["nothing"] = weights["zeros"]

    model, num_changed = check_pass(MergeWeights(), graph_of(nodes, weights), INPUTS)

    assert num_changed == 2
    assert {tensor.name for tensor in model.graph.initializer} == weights.keys() - {"second"}


# Operator sets.


@pytest.mark.parametrize("opset", [19, 20, 21, 22, 23])
def test_a_graph_is_rewritten_for_a_newer_operator_set(opset):
    model, _ = check_pass(ConvertOpset(opset), convolutional(), INPUTS)

    assert opset_of(model) == opset
    assert model.ir_version >= helper.find_min_ir_version_for(model.opset_import)


def test_an_operator_set_older_than_the_graph_is_refused():
    with pytest.raises(ConversionError, match=r"conversion.opset: expected at least 18, .* received 17"):
        run_passes(convolutional(), [ConvertOpset(17)], inputs=[{"input": INPUTS}])


def test_an_operator_set_that_onnx_does_not_know_is_refused():
    with pytest.raises(ConversionError, match=r"conversion.opset: expected a version .* received 99"):
        run_passes(convolutional(), [ConvertOpset(99)], inputs=[{"input": INPUTS}])


# Passes that break a graph.


class _Broken:
    name = "broken"

    def __init__(self, damage):
        self._damage = damage

    def __call__(self, model):
        self._damage(model.graph)
        return model


def _scale_weights(graph):
    kernel = next(tensor for tensor in graph.initializer if tensor.name == "dense/kernel")
    kernel.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(kernel) * 1.5, "dense/kernel"))


def _rename_output(graph):
    graph.node[-1].output[0] = graph.output[0].name = "other"


def _use_own_operator(graph):
    graph.node[2].domain = "com.microsoft"


DAMAGES = {
    "a graph that is not valid": (lambda graph: graph.node.pop(), r"expected a valid graph, received"),
    "an operator of one provider": (_use_own_operator, r"expected operators of the ONNX standard"),
    "other outputs": (_rename_output, r"expected outputs \['probabilities'\], received \['other'\]"),
    "a missing weight": (lambda graph: graph.initializer.pop(), r"expected a valid graph, received"),
    "other numbers": (_scale_weights, r"expected answers within .* received a largest difference of 0\.\d+"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_pass_that_breaks_the_graph_fails_by_its_name(damage):
    function, message = DAMAGES[damage]

    with pytest.raises(ConversionError, match=f"(?s)pass 'broken'.*{message}"):
        run_passes(convolutional(), [_Broken(function)], inputs=[{"input": INPUTS}])


def test_what_a_pass_did_is_said_in_a_line():
    assert PassResult("fuse_gelu", 3, 1.2e-7).describe() == "fuse_gelu: 3 changes, answers within 1.2e-07"
    assert PassResult("fuse_gelu", 0).describe() == "fuse_gelu: nothing to do"


def test_what_onnx_runtime_rewrites_is_named_by_its_own_names():
    # A name that it does not know would leave nothing out.
    model = _graph(lambda builder, x: builder.batch_norm(builder.conv(x, 3, 3), 3))

    assert "BatchNormalization" in _types(SIMPLIFY(model))
    assert "BatchNormalization" not in _types(RuntimeRewrites("all")(model))


def test_metadata_and_names_of_axes_survive():
    model = convolutional()
    onnx.helper.set_model_props(model, {"labels": "[]"})

    rewritten, _ = run_passes(model, standard_passes(21), inputs=[{"input": INPUTS}])

    assert {entry.key: entry.value for entry in rewritten.metadata_props} == {"labels": "[]"}
    assert rewritten.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert [entry.domain for entry in rewritten.opset_import] == [""]
