import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from onnx.reference import ReferenceEvaluator

from tests.convert.onnx_graphs import answers, convolutional, graph_of, rows, stored_types
from tests.convert.random_graphs import graphs
from tests.memory import peak_of_memory
from tfpipe.convert.half import to_float16
from tfpipe.convert.islands import find_islands, to_float16_within
from tfpipe.convert.weights import list_weights, weight_bytes
from tfpipe.core.parity import BOUNDS, Bound, assert_parity

ROWS = rows(8)
INPUTS = [{"input": ROWS[:4]}, {"input": ROWS[4:]}]
WIDTH = 64


def _chain(factors, *, before=(), after=()):
    """Dense layers, the first of which multiplies by the first factor, and so on; the product of all is small."""
    random = np.random.default_rng(2)
    nodes = [helper.make_node("ReduceMean", ["input", "axes"], ["t0"], keepdims=0)]
    weights = {"axes": np.array([1, 2])}
    sizes = [3, *[WIDTH] * (len(factors) - 1), 3]
    nodes += before
    for number, factor in enumerate(factors):
        shape = sizes[number : number + 2]
        weights[f"kernel{number}"] = (random.normal(0, shape[0] ** -0.5, shape) * factor).astype(np.float32)
        nodes.append(helper.make_node("MatMul", [f"t{number}", f"kernel{number}"], [f"t{number + 1}"]))
    nodes += [*after, helper.make_node("Softmax", [f"t{len(factors)}"], ["probabilities"], axis=-1)]
    return graph_of(nodes, weights)


def _strictly(model):
    """Answers with every float16 operator computed in float16, which ONNX Runtime does on GPUs alone."""
    with np.errstate(all="ignore"):
        return ReferenceEvaluator(model).run(None, {"input": ROWS})[0]


def test_a_network_without_large_values_has_no_islands():
    result = to_float16_within(convolutional(), INPUTS, BOUNDS["fp16"])

    assert result.islands == {}
    assert result.model == to_float16(convolutional())[0]


def test_values_that_overflow_are_computed_in_float32():
    # Activations of millions, brought back by the next layer; each weight alone fits.
    model = _chain([2000.0, 2000.0, 1e-6, 1.0])

    result = to_float16_within(model, INPUTS, BOUNDS["fp16"])

    assert not np.isfinite(_strictly(to_float16(model)[0])).all()
    assert_parity(_strictly(result.model), answers(model, ROWS), BOUNDS["fp16"], where="islands")
    assert {"t2", "t3"} <= result.islands.keys()
    assert "t4" not in result.islands
    assert "float16 ends at 65504" in result.islands["t2"]
    onnx.checker.check_model(result.model, full_check=True)
    # Their large weights are stored in half precision, but for those too small for it.
    assert stored_types(result.model)["kernel1"] == "float16"
    assert list_weights(result.model, "fp16", result.kept)["kept"]["kernel2"].startswith("float32: its largest value")


def test_values_that_only_come_near_the_end_of_the_range_are_left_room_for_other_rows():
    model = _chain([300.0, 300.0, 1e-4])
    largest = max(np.abs(value).max() for value in _inner(model, ["t2"]))
    scale = 30_000 / largest
    near = _chain([300.0 * scale, 300.0, 1e-4 / scale])

    assert "t2" in find_islands(near, INPUTS)
    assert find_islands(_chain([30.0, 30.0, 1e-2]), INPUTS) == {}


def _inner(model, names):
    from tfpipe.ort import open_session

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = open_session(copy.SerializeToString(), provider="cpu", optimise=False)
    return list(session.run({"input": ROWS}, names).values())


def test_of_what_a_graph_holds_inside_little_is_held_at_once():
    wide, layers = 4096, 24
    nodes = [helper.make_node("MatMul", ["input", "kernel"], ["t0"])]
    nodes += [helper.make_node("Sigmoid", [f"t{number}"], [f"t{number + 1}"]) for number in range(layers)]
    nodes.append(helper.make_node("ReduceMean", [f"t{layers}", "axes"], ["m"], keepdims=0))
    nodes.append(helper.make_node("MatMul", ["m", "last"], ["probabilities"]))
    weights = {"kernel": np.ones((3, wide)), "last": np.ones((wide, 3))}
    model = graph_of(nodes, {"axes": np.array([1, 2])} | {name: np.float32(array) for name, array in weights.items()})

    with peak_of_memory() as grown:
        assert find_islands(model, [{"input": ROWS}]) == {}

    inside = 4 * len(ROWS) * 8 * 8 * wide
    assert grown[0] < layers / 2 * inside


def test_values_too_small_for_half_precision_are_computed_in_float32():
    # Their relation counts, which digits of 1e-9 in float16 would lose: it is 0 there.
    model = _chain([1e-4, 1e-4, 1e3, 1e5])

    result = to_float16_within(model, INPUTS, BOUNDS["fp16"])

    assert np.abs(_strictly(to_float16(model)[0]) - answers(model, ROWS)).max() > 0.02
    assert_parity(_strictly(result.model), answers(model, ROWS), BOUNDS["fp16"], where="islands")
    assert "float16 has all its digits from 6.1e-05 on" in result.islands["t2"]


def test_the_small_number_that_keeps_a_division_from_one_by_zero_does_not_vanish():
    scale = [
        helper.make_node("Mul", ["t1", "t1"], ["squares"]),
        helper.make_node("ReduceMean", ["squares", "last"], ["variance"]),
        helper.make_node("Add", ["variance", "epsilon"], ["padded"]),
        helper.make_node("Sqrt", ["padded"], ["deviation"]),
        helper.make_node("Div", ["t1", "deviation"], ["logits"]),
    ]
    nodes = [helper.make_node("ReduceMean", ["input", "axes"], ["t1"], keepdims=0), *scale]
    nodes.append(helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1))
    weights = {"axes": np.array([1, 2]), "last": np.array([-1]), "epsilon": np.float32([1e-12])}
    model = graph_of(nodes, weights)

    half, kept = to_float16(model)

    nothing = np.zeros((1, 8, 8, 3), np.float32)
    np.testing.assert_allclose(answers(half, nothing), np.full((1, 3), 1 / 3), rtol=1e-3)
    assert kept == {"epsilon": "its largest value, 1e-12, is too small for float16"}


def test_where_rounding_adds_up_the_operators_that_add_most_go_back_to_float32():
    model = convolutional()
    half, _ = to_float16(model)
    apart = np.abs(answers(half, ROWS) - answers(model, ROWS)).max()
    tight = Bound(apart / 20, 0.0)

    result = to_float16_within(model, INPUTS, tight)

    assert_parity(answers(result.model, ROWS), answers(model, ROWS), tight, where="islands")
    assert result.islands
    assert all("adds " in reason for reason in result.islands.values())


def test_a_bound_that_nothing_holds_ends_with_everything_in_float32():
    result = to_float16_within(convolutional(), INPUTS, Bound(0.0, 0.0))

    computed = {node.output[0] for node in result.model.graph.node if node.op_type in ("Conv", "Gemm", "Relu")}
    assert computed <= result.islands.keys()


@settings(max_examples=25)
@given(graph=graphs(), scale=st.sampled_from([1e-6, 1.0, 1e4, 1e7]))
def test_whatever_the_scale_of_its_values_a_network_in_half_precision_answers_alike(graph, scale):
    given_rows = [{"input": ROWS * np.float32(scale)}]
    reference = answers(graph, given_rows[0]["input"])
    if not np.isfinite(reference).all():
        return

    result = to_float16_within(graph, given_rows, BOUNDS["fp16"])

    assert_parity(answers(result.model, given_rows[0]["input"]), reference, BOUNDS["fp16"], where=f"{scale}")


@pytest.mark.parametrize("factors", [[2000.0, 2000.0, 1e-3, 1.0], [1.0, 1.0, 1.0, 1.0]])
def test_islands_cost_no_bytes(factors):
    model = _chain(factors)

    result = to_float16_within(model, INPUTS, BOUNDS["fp16"])

    assert weight_bytes(result.model) <= 0.51 * weight_bytes(model)
