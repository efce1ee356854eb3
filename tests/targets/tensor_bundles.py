"""A small bundle of named tensors, made without TensorFlow: two inputs of different types, two outputs."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.targets.manifests import fp32_manifest
from tfpipe.core.bundle import seal
from tfpipe.core.golden_tensors import GoldenTensors, write_golden_tensors
from tfpipe.core.signature import TensorSpec

_WEIGHTS = np.arange(8, dtype=np.float32).reshape(4, 2) / 8


def answers(inputs):
    """What the model gives, by NumPy."""
    rain = inputs["wind"] @ _WEIGHTS + inputs["month"].astype(np.float32)
    return {"rain": rain.astype(np.float32), "wettest": rain.argmax(axis=1)}


def request(rows, seed=0):
    """A request of so many rows."""
    random = np.random.default_rng(seed)
    wind = random.normal(size=(rows, 4)).astype(np.float32)
    return {"wind": wind, "month": random.integers(1, 13, (rows, 1), dtype=np.int32)}


def make_tensor_bundle(folder: Path, *, axis: str = "batch", golden_offset: float = 0.0) -> Path:
    """Write a sealed bundle.

    Args:
        folder: Folder to make.
        axis: Name of the first axis.
        golden_offset: Added to the golden answers, which are right without it.
    """
    folder.mkdir(parents=True)
    path = folder / "model.fp32.onnx"
    onnx.save(_graph(axis), path)
    samples = []
    for seed, rows in enumerate((1, 3)):
        given = request(rows, seed)
        expected = answers(given)
        samples.append(GoldenTensors(given, expected | {"rain": expected["rain"] + np.float32(golden_offset)}))
    write_golden_tensors(folder, samples)
    manifest = fp32_manifest(
        path,
        model_name="rain",
        model_version="2",
        task="tensor",
        labels=(),
        inputs=(TensorSpec("wind", "float32", (axis, 4)), TensorSpec("month", "int32", (axis, 1))),
        outputs=(TensorSpec("rain", "float32", (axis, 2)), TensorSpec("wettest", "int64", (axis,))),
        preprocess_inputs=(),
    )
    seal(folder, manifest)
    return folder


def _graph(axis):
    nodes = [
        helper.make_node("MatMul", ["wind", "weights"], ["product"]),
        helper.make_node("Cast", ["month"], ["number"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["product", "number"], ["rain"]),
        helper.make_node("ArgMax", ["rain"], ["wettest"], axis=1, keepdims=0),
    ]
    graph = helper.make_graph(
        nodes,
        "rain",
        [
            helper.make_tensor_value_info("wind", TensorProto.FLOAT, [axis, 4]),
            helper.make_tensor_value_info("month", TensorProto.INT32, [axis, 1]),
        ],
        [
            helper.make_tensor_value_info("rain", TensorProto.FLOAT, [axis, 2]),
            helper.make_tensor_value_info("wettest", TensorProto.INT64, [axis]),
        ],
        [numpy_helper.from_array(_WEIGHTS, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model
