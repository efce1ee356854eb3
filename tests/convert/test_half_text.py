import numpy as np
import onnx
import pytest

from tests.convert.onnx_graphs import stored_types
from tests.convert.text_networks import FAMILIES, graph_of_family, graph_of_network, network_of, onnx_answers, rows_of
from tfpipe.convert.half import to_float16
from tfpipe.convert.weights import list_weights, weight_bytes
from tfpipe.core.parity import BOUNDS, assert_parity

pytestmark = pytest.mark.tensorflow

# The second has more padding than text.
ROWS = rows_of(20, 2, 9, to=24)


@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_text_graph_of_half_the_size_answers_alike(family, per_token):
    graph = graph_of_family(family, per_token=per_token)
    reference, size = onnx_answers(graph, ROWS), weight_bytes(graph)

    half, kept = to_float16(graph)

    onnx.checker.check_model(half, full_check=True)
    assert weight_bytes(half) <= 0.51 * size
    assert_parity(onnx_answers(half, ROWS), reference, BOUNDS["fp16"], where=family)
    listed = list_weights(half, "fp16", kept)
    assert any("embedding" in name for name in listed["converted"])


def test_recurrent_layers_compute_in_float32_with_kernels_stored_in_half():
    half, kept = to_float16(graph_of_family("text_bilstm"))

    lstm = [node for node in half.graph.node if node.op_type == "LSTM"]
    casts = {node.output[0]: node.input[0] for node in half.graph.node if node.op_type == "Cast"}
    assert lstm
    assert {stored_types(half)[casts[name]] for node in lstm for name in node.input[1:3]} == {"float16"}
    assert all(reason == "ONNX Runtime computes LSTM in float32 alone" for reason in kept.values())


def test_large_scores_are_masked_without_overflow():
    network = network_of("bert", per_token=True)
    for weight in network.weights:
        # Scores of some hundreds: a mask beyond them, and below the largest number of float16.
        if weight.path.endswith(("query/kernel", "key/kernel")):
            weight.assign(weight * 60)
    graph = graph_of_network(network, per_token=True)
    reference = onnx_answers(graph, ROWS)

    received = onnx_answers(to_float16(graph)[0], ROWS)
    padded = onnx_answers(to_float16(graph_of_network(network, per_token=True))[0], rows_of(20, 2, 9, to=32))

    assert np.isfinite(received).all()
    # Padding has no share in attention: more of it changes nothing.
    np.testing.assert_allclose(padded[1, :2], received[1, :2], rtol=0, atol=2e-3)
    assert np.abs(received - reference)[1, :2].max() < 0.1


def test_small_probabilities_of_a_text_do_not_vanish():
    network = network_of("text_cnn")
    network.get_layer("logits").bias.assign([0.0, -25.0, -25.0])

    half, _ = to_float16(graph_of_network(network))

    smallest = onnx_answers(half, ROWS)[:, 1]
    assert (smallest > 0).all()
    assert (smallest < 1e-8).all()
