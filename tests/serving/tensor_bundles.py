"""A bundle of named tensors, made without TensorFlow: `sum` and `parity` of `numbers` and a `factor` for each row."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from tfpipe.core.bundle import Manifest, Variant, seal
from tfpipe.core.golden_tensors import GoldenTensors, write_golden_tensors
from tfpipe.core.signature import TensorSpec

INPUTS = (TensorSpec("numbers", "float32", ("batch", "count")), TensorSpec("factor", "int32", ("batch",)))
OUTPUTS = (TensorSpec("sum", "float32", ("batch",)), TensorSpec("parity", "int32", ("batch",)))


def reference(numbers, factor):
    return {"sum": (numbers.sum(axis=1) * factor).astype(np.float32), "parity": (factor % 2).astype(np.int32)}


def make_tensor_bundle(folder: Path, *, golden_offset: float = 0.0) -> Path:
    """Write the bundle.

    Args:
        folder: Made.
        golden_offset: Added to the golden answers.
    """
    folder.mkdir(parents=True)
    graph = helper.make_graph(
        [
            helper.make_node("ReduceSum", ["numbers", "axes"], ["plain"], keepdims=0),
            helper.make_node("Cast", ["factor"], ["factors"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["plain", "factors"], ["sum"]),
            helper.make_node("Mod", ["factor", "two"], ["parity"]),
        ],
        "sums",
        [_value("numbers", TensorProto.FLOAT, INPUTS[0]), _value("factor", TensorProto.INT32, INPUTS[1])],
        [_value("sum", TensorProto.FLOAT, OUTPUTS[0]), _value("parity", TensorProto.INT32, OUTPUTS[1])],
        [
            onnx.numpy_helper.from_array(np.array([1]), "axes"),
            onnx.numpy_helper.from_array(np.array(2, np.int32), "two"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (folder / "model.fp32.onnx").write_bytes(model.SerializeToString())
    numbers, factor = np.array([[1, 2, 3], [4, 5, 6]], np.float32), np.array([2, 3], np.int32)
    answers = reference(numbers, factor)
    answers["sum"] = answers["sum"] + np.float32(golden_offset)
    write_golden_tensors(folder, [GoldenTensors({"numbers": numbers, "factor": factor}, answers)])
    variant = Variant("fp32", "model.fp32.onnx", {}, 1, {}, {"1": 0.1}, True, 0.0, {"converted": {}, "kept": {}})
    seal(
        folder,
        Manifest("sums", None, "tensor", (), INPUTS, OUTPUTS, (), {"fp32": variant}, "fp32", {}, {}, "2025-01-01"),
    )
    return folder


def make_lookup_bundle(folder: Path) -> Path:
    """Write a bundle whose model fails on some inputs that its signature allows.

    `place` is looked up in a table of four, and `left` is added to `right`, whose axes must go together.
    """
    folder.mkdir(parents=True)
    inputs = (
        TensorSpec("place", "int64", ("batch",)),
        TensorSpec("left", "float32", ("batch", "many")),
        TensorSpec("right", "float32", ("batch", "more")),
    )
    outputs = (TensorSpec("found", "float32", ("batch",)), TensorSpec("both", "float32", ("batch", "most")))
    kinds = (TensorProto.INT64, TensorProto.FLOAT, TensorProto.FLOAT)
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "place"], ["found"]),
            helper.make_node("Add", ["left", "right"], ["both"]),
        ],
        "lookup",
        [_value(spec.name, kind, spec) for spec, kind in zip(inputs, kinds, strict=True)],
        [_value(spec.name, TensorProto.FLOAT, spec) for spec in outputs],
        [onnx.numpy_helper.from_array(np.arange(4, dtype=np.float32), "table")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (folder / "model.fp32.onnx").write_bytes(model.SerializeToString())
    ones = np.ones((2, 3), np.float32)
    sample = {"place": np.array([0, 3]), "left": ones, "right": ones}
    write_golden_tensors(folder, [GoldenTensors(sample, {"found": np.array([0, 3], np.float32), "both": ones + ones})])
    variant = Variant("fp32", "model.fp32.onnx", {}, 1, {}, {"1": 0.1}, True, 0.0, {"converted": {}, "kept": {}})
    manifest = Manifest(
        "lookup", None, "tensor", (), inputs, outputs, (), {"fp32": variant}, "fp32", {}, {}, "2025-01-01"
    )
    seal(folder, manifest)
    return folder


def _value(name: str, kind: int, spec: TensorSpec):
    return helper.make_tensor_value_info(name, kind, list(spec.shape))
