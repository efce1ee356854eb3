"""Small ONNX graphs written by hand, for tests of passes over them."""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tfpipe.ort import open_session

SIDE = 8


def graph_of(
    nodes: Sequence[onnx.NodeProto], weights: Mapping[str, np.ndarray], *, num_outputs: int = 3
) -> onnx.ModelProto:
    """A model graph `input` float32 (batch, 8, 8, 3) -> `probabilities` float32 (batch, num_outputs)."""
    graph = helper.make_graph(
        list(nodes),
        "model",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", SIDE, SIDE, 3])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", num_outputs])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


def convolutional() -> onnx.ModelProto:
    """Two kinds of convolution, Sigmoid, mean, dense layer, Softmax: every kind that quantisation tells apart."""
    random = np.random.default_rng(3)
    nodes = [
        helper.make_node("Transpose", ["input"], ["planes"], name="planes", perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "conv/kernel", "conv/bias"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("Conv", ["r", "depthwise/kernel"], ["d"], name="depthwise", group=16, pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["d"], ["s"], name="sigmoid"),
        helper.make_node("ReduceMean", ["s", "axes"], ["m"], name="mean", keepdims=0),
        helper.make_node("Gemm", ["m", "dense/kernel", "dense/bias"], ["logits"], name="dense"),
        helper.make_node("Softmax", ["logits"], ["probabilities"], name="softmax", axis=-1),
    ]
    weights = {
        "conv/kernel": random.normal(0, 0.3, (16, 3, 3, 3)).astype(np.float32),
        "conv/bias": random.normal(0, 0.1, 16).astype(np.float32),
        "depthwise/kernel": random.normal(0, 0.5, (16, 1, 3, 3)).astype(np.float32),
        "axes": np.array([2, 3]),
        "dense/kernel": random.normal(0, 3, (16, 3)).astype(np.float32),
        "dense/bias": np.zeros(3, np.float32),
    }
    return graph_of(nodes, weights)


def deep(layers: int, width: int) -> onnx.ModelProto:
    """Dense layers of layers x width x width numbers in all, each with its own."""
    random = np.random.default_rng(4)
    weights: dict[str, np.ndarray] = {"axes": np.array([1, 2])}
    nodes = [helper.make_node("ReduceMean", ["input", "axes"], ["t0"], keepdims=0)]
    sizes = [3, *[width] * (layers + 1), 3]
    for number, shape in enumerate(pairwise(sizes)):
        weights[f"kernel{number}"] = random.normal(0, shape[0] ** -0.5, shape).astype(np.float32)
        nodes.append(helper.make_node("MatMul", [f"t{number}", f"kernel{number}"], [f"t{number + 1}"]))
    nodes.append(helper.make_node("Softmax", [nodes[-1].output[0]], ["probabilities"], axis=-1))
    return graph_of(nodes, weights)


def rows(count: int = 16) -> np.ndarray:
    """Random inputs of these graphs, (count, 8, 8, 3) float32."""
    return np.random.default_rng(5).normal(0, 1, (count, SIDE, SIDE, 3)).astype(np.float32)


def answers(model: onnx.ModelProto, inputs: np.ndarray) -> np.ndarray:
    """What a graph gives on the CPU."""
    return open_session(model.SerializeToString(), provider="cpu").run({"input": inputs})["probabilities"]


def stored_types(model: onnx.ModelProto) -> dict[str, str]:
    """NumPy dtype by name of every stored tensor."""
    return {tensor.name: str(numpy_helper.to_array(tensor).dtype) for tensor in model.graph.initializer}
