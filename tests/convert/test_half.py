import numpy as np
import onnx
from onnx import TensorProto, helper

from tests.convert.onnx_graphs import answers, convolutional, deep, graph_of, rows, stored_types
from tests.memory import peak_of_memory
from tfpipe.convert.half import to_float16
from tfpipe.convert.onnx_file import stored_bytes
from tfpipe.convert.weights import list_weights
from tfpipe.core.parity import BOUNDS, assert_parity


def _dense(weights, *extra):
    nodes = [
        helper.make_node("ReduceMean", ["input", "axes"], ["m"], keepdims=0),
        helper.make_node("MatMul", ["m", "kernel"], ["logits"]),
        *extra,
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
    ]
    return graph_of(nodes, {"axes": np.array([1, 2]), **weights})


def test_every_weight_is_stored_in_half_precision_and_the_answers_stay():
    model = convolutional()

    half, kept = to_float16(convolutional())

    onnx.checker.check_model(half, full_check=True)
    floats = {name: dtype for name, dtype in stored_types(half).items() if dtype.startswith("float")}
    assert set(floats.values()) == {"float16"}
    assert len(floats) == 5
    assert kept == {}
    assert_parity(answers(half, rows()), answers(model, rows()), BOUNDS["fp16"], where="half")


def test_half_precision_takes_half_the_weights_of_memory():
    model = deep(layers=16, width=1024)

    with peak_of_memory() as grown:
        half, _ = to_float16(model)

    assert stored_bytes(half) < 0.51 * stored_bytes(model)
    # And a layer at a time; with a copy of the whole 1.5.
    assert grown[0] < 0.9 * stored_bytes(model)


def test_inputs_outputs_and_softmax_stay_in_float32():
    half, _ = to_float16(convolutional())

    assert [value.type.tensor_type.elem_type for value in (*half.graph.input, *half.graph.output)] == [
        TensorProto.FLOAT,
        TensorProto.FLOAT,
    ]
    softmax = next(node for node in half.graph.node if node.op_type == "Softmax")
    cast = next(node for node in half.graph.node if node.output[0] == softmax.input[0])
    assert (cast.op_type, cast.attribute[0].i) == ("Cast", TensorProto.FLOAT)


def test_small_probabilities_do_not_vanish():
    kernel = np.diag([0.0, -20.0, -30.0]).astype(np.float32)
    half, _ = to_float16(_dense({"kernel": kernel}))

    given = np.ones((1, 8, 8, 3), np.float32)

    assert 0 < answers(half, given)[0, 2] < 1e-12


def test_a_weight_beyond_the_range_of_half_precision_is_kept_and_says_so():
    kernel = np.diag([1e6, 1.0, 1.0]).astype(np.float32)

    half, kept = to_float16(_dense({"kernel": kernel}))

    assert stored_types(half)["kernel"] == "float32"
    assert kept["kernel"] == "its largest value, 1e+06, is beyond float16"
    assert list_weights(half, "fp16", kept)["kept"]["kernel"] == f"float32: {kept['kernel']}"


def test_an_infinite_or_missing_number_is_not_hidden_in_half_precision():
    for value in (np.inf, np.nan):
        kernel = np.diag([value, 1.0, 1.0]).astype(np.float32)

        _, kept = to_float16(_dense({"kernel": kernel}))

        assert "beyond float16" in kept["kernel"]


def test_a_weight_that_one_operator_takes_in_each_precision_is_stored_once_and_cast():
    add = [
        helper.make_node("Softmax", ["bias"], ["shares"], axis=-1),
        helper.make_node("Add", ["logits0", "bias"], ["logits1"]),
        helper.make_node("Add", ["logits1", "shares"], ["logits"]),
    ]
    nodes = [
        helper.make_node("ReduceMean", ["input", "axes"], ["m"], keepdims=0),
        helper.make_node("MatMul", ["m", "kernel"], ["logits0"]),
        *add,
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
    ]
    weights = {
        "axes": np.array([1, 2]),
        "kernel": np.eye(3, dtype=np.float32),
        "bias": np.array([[0.5, 0.25, 0.125]], np.float32),
    }
    model = graph_of(nodes, weights)

    half, kept = to_float16(graph_of(nodes, weights))

    assert stored_types(half)["bias"] == "float16"
    assert kept == {}
    assert_parity(answers(half, rows()), answers(model, rows()), BOUNDS["fp16"], where="half")


def test_an_operator_with_a_graph_of_its_own_computes_in_float32():
    branch = lambda name, factor: helper.make_graph(  # noqa: E731
        [
            helper.make_node("Constant", [], [f"{name}/factor"], value_float=factor),
            helper.make_node("Mul", ["scores", f"{name}/factor"], [f"{name}/out"]),
        ],
        name,
        [],
        [helper.make_tensor_value_info(f"{name}/out", TensorProto.FLOAT, ["batch", 3])],
    )
    nodes = [
        helper.make_node("ReduceMean", ["input", "axes"], ["m"], keepdims=0),
        helper.make_node("MatMul", ["m", "kernel"], ["scores"]),
        helper.make_node("If", ["choice"], ["logits"], then_branch=branch("yes", 2.0), else_branch=branch("no", 1.0)),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
    ]
    weights = {"axes": np.array([1, 2]), "kernel": np.eye(3, dtype=np.float32), "choice": np.array(True)}
    model = graph_of(nodes, weights)

    half, _ = to_float16(graph_of(nodes, weights))

    assert stored_types(half)["kernel"] == "float16"
    assert_parity(answers(half, rows()), answers(model, rows()), BOUNDS["fp16"], where="half")


def test_casts_and_constants_inside_the_graph_follow():
    nodes = [
        helper.make_node("ReduceMean", ["input", "axes"], ["m"], keepdims=0),
        helper.make_node("Cast", ["m"], ["whole"], to=TensorProto.INT32),
        helper.make_node("Cast", ["whole"], ["back"], to=TensorProto.FLOAT),
        helper.make_node("Constant", [], ["half_of_it"], value=onnx.numpy_helper.from_array(np.float32([[0.5]]))),
        helper.make_node("Mul", ["m", "half_of_it"], ["scaled"]),
        helper.make_node("Add", ["back", "scaled"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
    ]
    weights = {"axes": np.array([1, 2])}
    model = graph_of(nodes, weights)
    given = rows() + np.float32([0.4, 1.4, 2.4])

    half, _ = to_float16(graph_of(nodes, weights))

    assert_parity(answers(half, given), answers(model, given), BOUNDS["fp16"], where="half")
