import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from tfpipe.core.errors import BundleError, ConfigError, InferenceError
from tfpipe.ort import open_session


@pytest.fixture(scope="module")
def content() -> bytes:
    """Two inputs, their sum and their difference."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch"]) for name in ("a", "b")]
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch"]) for name in ("sum", "difference")]
    nodes = [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Sub", ["a", "b"], ["difference"])]
    model = helper.make_model(
        helper.make_graph(nodes, "g", values, results), opset_imports=[helper.make_opsetid("", 18)], ir_version=9
    )
    return model.SerializeToString()


@pytest.mark.parametrize("options", [{}, {"threads": 1}, {"optimise": False}, {"provider": "cpu"}, {"in_order": True}])
def test_a_model_runs(content, options):
    session = open_session(content, **options)

    outputs = session.run({"a": np.float32([3]), "b": np.float32([1])})

    assert (session.input_names, session.output_names) == (["a", "b"], ["sum", "difference"])
    assert {name: array.tolist() for name, array in outputs.items()} == {"sum": [4], "difference": [2]}


def test_a_rewrite_is_left_out_where_it_is_asked_for():
    # A product and a sum, which ONNX Runtime makes one Gemm of; an error at run time names the operator.
    weights = [numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in (("w", (3, 2)), ("b", 2))]
    given = helper.make_tensor_value_info("a", TensorProto.FLOAT, ["batch", "width"])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2])
    nodes = [helper.make_node("MatMul", ["a", "w"], ["p"]), helper.make_node("Add", ["p", "b"], ["y"])]
    graph = helper.make_graph(nodes, "g", [given], [result], weights)
    product = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9).SerializeToString()
    too_wide = {"a": np.ones((1, 4), np.float32)}

    with pytest.raises(InferenceError, match="Gemm"):
        open_session(product, provider="cpu").run(too_wide)
    with pytest.raises(InferenceError, match="MatMul"):
        open_session(product, provider="cpu", disabled_optimizers=["MatMulAddFusion"]).run(too_wide)


def test_only_the_outputs_asked_for_are_given(content):
    outputs = open_session(content).run({"a": np.float32([3]), "b": np.float32([1])}, ["difference"])

    assert list(outputs) == ["difference"]


def test_a_file_is_opened_by_its_path(content, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)

    assert open_session(path).output_names == ["sum", "difference"]


def test_auto_takes_what_there_is(content):
    expected = "cuda" if "CUDAExecutionProvider" in onnxruntime.get_available_providers() else "cpu"

    assert open_session(content).provider == expected


def test_an_unknown_provider_is_refused(content):
    with pytest.raises(ConfigError, match="expected one of auto, cpu, openvino, cuda, tensorrt; received 'gpu'"):
        open_session(content, provider="gpu")


@pytest.mark.skipif(
    "TensorrtExecutionProvider" in onnxruntime.get_available_providers(), reason="TensorRT is installed here"
)
def test_a_provider_that_is_not_installed_is_refused(content):
    with pytest.raises(ConfigError, match=r"received 'tensorrt', which is not installed here"):
        open_session(content, provider="tensorrt")


@pytest.mark.parametrize("damaged", [b"", b"no model", None])
def test_what_is_no_model_is_refused(content, damaged, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(content[: len(content) // 2] if damaged is None else damaged)

    with pytest.raises(BundleError, match=r"model\.onnx: expected an ONNX model that ONNX Runtime can load"):
        open_session(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(BundleError, match="expected an ONNX model that ONNX Runtime can load"):
        open_session(tmp_path / "missing.onnx")


def test_a_graph_with_an_unknown_operator_is_refused():
    value = helper.make_tensor_value_info("a", TensorProto.FLOAT, [1])
    result = helper.make_tensor_value_info("b", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Unheard", ["a"], ["b"])], "g", [value], [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)

    with pytest.raises(BundleError, match="the model: expected an ONNX model"):
        open_session(model.SerializeToString())
