import collections

import keras
import numpy as np
import onnx
import pytest

from tests.convert.text_networks import (
    CLASSES,
    FAMILIES,
    TOKENS,
    TRANSFORMERS,
    graph_of_family,
    graph_of_network,
    keras_answers,
    network_of,
    network_of_family,
    onnx_answers,
    rows_of,
)
from tests.models.text_networks import randomised
from tfpipe.core.errors import InferenceError
from tfpipe.ort import open_session

pytestmark = pytest.mark.tensorflow

BATCHES = (rows_of(2), rows_of(3, 9), rows_of(17, 1, 5, to=24))


def _counts(model):
    return collections.Counter(node.op_type for node in model.graph.node)


def _assert_answers_as_keras(network, model):
    session = open_session(model.SerializeToString(), provider="cpu")
    for rows in BATCHES:
        received = session.run({"input": rows})["probabilities"]
        np.testing.assert_allclose(received, keras_answers(network, rows), rtol=0, atol=1e-5)


@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_graph_answers_as_keras_does_for_any_batch_length_and_padding(family, per_token):
    network, model = network_of_family(family, per_token=per_token), graph_of_family(family, per_token=per_token)

    onnx.checker.check_model(model, full_check=True)
    _assert_answers_as_keras(network, model)


def test_names_types_and_axes_are_those_of_the_bundle():
    for per_token, axes in ((False, ["batch", CLASSES]), (True, ["batch", "sequence", CLASSES])):
        graph = graph_of_family("text_cnn", per_token=per_token).graph

        described = [
            (value.name, value.type.tensor_type.elem_type, [d.dim_param or d.dim_value for d in dims])
            for value in (*graph.input, *graph.output)
            for dims in [value.type.tensor_type.shape.dim]
        ]
        assert described == [
            ("input", onnx.TensorProto.INT32, ["batch", "sequence"]),
            ("probabilities", onnx.TensorProto.FLOAT, axes),
        ]


@pytest.mark.parametrize("family", TRANSFORMERS)
def test_a_transformer_holds_one_operator_for_each_layer_of_its_own(family):
    small = _counts(graph_of_network(network_of(family, num_layers=1)))
    large = _counts(graph_of_family(family))

    layer = large - small
    # Four projections and two of the feed-forward part, and the two products of attention.
    assert {op: layer[op] for op in ("MatMul", "LayerNormalization", "Softmax", "Gather", "Gemm")} == {
        "MatMul": 8, "LayerNormalization": 2, "Softmax": 1, "Gather": 0, "Gemm": 0,
    }  # fmt: skip
    # No computing of shapes.
    assert layer.keys().isdisjoint({"Shape", "Concat", "Cast", "Squeeze", "Unsqueeze", "Slice", "Where"})


@pytest.mark.parametrize("family", TRANSFORMERS)
def test_a_transformer_stores_each_weight_once(family):
    stored = sum(np.prod(t.dims) for t in graph_of_family(family).graph.initializer if t.data_type == 1)

    # A few constants of one number, beside the weights.
    assert stored <= network_of_family(family).count_params() + 50


def test_a_transformer_without_dropout_in_attention_answers_as_keras_does():
    network = network_of("bert", dropout=0.0)

    _assert_answers_as_keras(network, graph_of_network(network))


def test_an_older_operator_set_is_kept():
    network = network_of("bert")

    model = graph_of_network(network, opset=17)

    assert [entry.version for entry in model.opset_import if not entry.domain] == [17]
    _assert_answers_as_keras(network, model)


def test_a_row_longer_than_the_positions_is_refused_rather_than_answered():
    with pytest.raises(InferenceError, match="Add"):
        onnx_answers(graph_of_family("bert"), rows_of(TOKENS.max_length + 1))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_of_padding_alone_gives_numbers(family):
    rows = rows_of(0, 5)

    received = onnx_answers(graph_of_family(family), rows)

    np.testing.assert_allclose(received.sum(axis=1), 1, atol=1e-5)
    # The row beside it gets what it gets alone.
    np.testing.assert_allclose(received[1:], onnx_answers(graph_of_family(family), rows[1:]), rtol=0, atol=1e-6)


def test_layers_that_are_no_single_operator_are_converted_as_keras_writes_them():
    ids = keras.Input((None,), dtype="int32", name="rows")
    x = keras.layers.Embedding(TOKENS.vocabulary_size, 16)(ids)
    x = keras.layers.MultiHeadAttention(2, 8)(x, x, use_causal_mask=True)
    x = keras.layers.LayerNormalization(rms_scaling=True)(x)
    x = keras.layers.LayerNormalization(center=False)(x)
    # The kernel's input axis last.
    x = keras.layers.EinsumDense("abc,dc->abd", output_shape=(None, 12), activation="relu")(x)
    shared = keras.layers.Dense(12, activation="gelu")
    lora = keras.layers.Dense(CLASSES, name="logits")
    network = keras.Model(ids, lora(shared(shared(x))), name="network")
    lora.enable_lora(2)

    _assert_answers_as_keras(network, graph_of_network(randomised(network), per_token=True))


def test_keras_is_left_as_it_was():
    network, rows = network_of("bert"), rows_of(5, 2)
    before = keras_answers(network, rows)

    graph_of_network(network)

    np.testing.assert_array_equal(keras_answers(network, rows), before)


def test_layers_whose_weights_keras_has_quantised_are_left_to_keras():
    ids = keras.Input((None,), dtype="int32", name="token_ids")
    x = keras.layers.Dense(12, activation="gelu")(keras.layers.Embedding(TOKENS.vocabulary_size, 8)(ids))
    network = randomised(keras.Model(ids, keras.layers.Dense(CLASSES, name="logits")(x), name="network"))
    network.quantize("int8")

    _assert_answers_as_keras(network, graph_of_network(network, per_token=True))
