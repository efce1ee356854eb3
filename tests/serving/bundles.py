"""A small bundle made without TensorFlow: which of red, green and blue is an image most?"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from tfpipe.core.bundle import Manifest, Variant, seal, write_golden
from tfpipe.core.signature import TensorSpec
from tfpipe.core.statistics import FILE, Statistics
from tfpipe.decode import decode_image
from tfpipe.ort import open_session

LABELS = ("red", "green", "blue")
SIDE = 8
# Sharp enough that a plain colour is a sure answer.
_SHARPNESS = 6.0


def image_bytes(colour: tuple[int, int, int], size: tuple[int, int] = (20, 30), format: str = "PNG") -> bytes:
    """An encoded picture of one colour; size is (height, width)."""
    file = io.BytesIO()
    Image.new("RGB", (size[1], size[0]), colour).save(file, format)
    return file.getvalue()


RED, GREEN, BLUE = (image_bytes(colour) for colour in ((250, 10, 10), (10, 250, 10), (10, 10, 250)))


def make_bundle(
    folder: Path,
    *,
    name: str = "colours",
    version: str | None = "3",
    golden_offset: float = 0.0,
    manifest_changes: Mapping[str, Any] | None = None,
    work: int = 0,
    not_finite: bool = False,
    features: bool = False,
    statistics: Statistics | None = None,
) -> Path:
    """Write a sealed bundle.

    Args:
        folder: Folder to make.
        name: Model name.
        version: Registered version.
        golden_offset: Added to the golden answers, which are right without it.
        manifest_changes: Fields of the manifest that differ.
        work: Loops of needless arithmetic in the model, for one that is slow.
        not_finite: Whether the model's weights, and so its answers, are NaN.
        features: Whether the model gives the mean of each channel, 0..1, as features.
        statistics: Of what it was trained on.
    """
    folder.mkdir(parents=True)
    onnx.save(_preprocess_graph(), folder / "preprocess.onnx")
    variants = {}
    for precision, noise in (("fp32", 0.0), ("fp16", 1e-4), ("int8", 1e-2)):
        path = folder / f"model.{precision}.onnx"
        graph = _model_graph(np.nan if not_finite else noise, work)
        onnx.save(_with_features(graph) if features else graph, path)
        variants[precision] = Variant(
            precision, path.name, {}, path.stat().st_size, {"accuracy": 1.0}, {"1": 0.1}, True, noise, {}
        )
    contents = {f"{label}.png": content for label, content in zip(LABELS, (RED, GREEN, BLUE), strict=True)}
    contents["red.jpg"] = image_bytes((200, 40, 30), (41, 7), "JPEG")
    samples = [(file, content, reference(content) + golden_offset) for file, content in contents.items()]
    write_golden(folder, samples)
    if statistics is not None:
        (folder / FILE).write_text(statistics.to_json(), encoding="utf-8")
    values: dict[str, Any] = {
        "model_name": name,
        "model_version": version,
        "task": "image_classification",
        "labels": LABELS,
        "inputs": (TensorSpec("input", "float32", ("batch", SIDE, SIDE, 3)),),
        "outputs": (
            TensorSpec("probabilities", "float32", ("batch", len(LABELS))),
            *([TensorSpec("features", "float32", ("batch", 3))] if features else []),
        ),
        "preprocess_inputs": (TensorSpec("image", "uint8", ("height", "width", 3)),),
        "variants": variants,
        "default_variant": "int8",
        "training": {},
        "measured_on": {},
        "created": "2026-01-01T00:00:00+00:00",
    }
    seal(folder, Manifest(**{**values, **(manifest_changes or {})}))
    return folder


def reference(content: bytes) -> np.ndarray:
    """(classes,) probabilities of an encoded image, by NumPy and the preprocessing graph."""
    return reference_of(decode_image(content))


def reference_of(pixels: np.ndarray) -> np.ndarray:
    """(classes,) probabilities of a decoded image."""
    session = open_session(_preprocess_graph().SerializeToString(), provider="cpu", threads=1)
    row = session.run({"image": pixels})["input"]
    logits = _SHARPNESS * row.mean(axis=(0, 1))
    powers = np.exp(logits - logits.max())
    return (powers / powers.sum()).astype(np.float32)


def _preprocess_graph() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[2, 0, 1]),
        helper.make_node("Unsqueeze", ["planes", "zero"], ["batch"]),
        helper.make_node("Resize", ["batch", "", "", "size"], ["small"], mode="linear"),
        helper.make_node("Transpose", ["small"], ["last"], perm=[0, 2, 3, 1]),
        helper.make_node("Squeeze", ["last", "zero"], ["row"]),
        helper.make_node("Div", ["row", "scale"], ["input"]),
    ]
    constants = {"zero": np.array([0]), "size": np.array([1, 3, SIDE, SIDE]), "scale": np.float32(255.0)}
    return _graph(
        nodes,
        constants,
        helper.make_tensor_value_info("image", TensorProto.UINT8, ["height", "width", 3]),
        helper.make_tensor_value_info("input", TensorProto.FLOAT, [SIDE, SIDE, 3]),
    )


def _model_graph(noise: float, work: int) -> onnx.ModelProto:
    nodes = [
        helper.make_node("ReduceMean", ["input", "axes"], ["means"], keepdims=0),
        helper.make_node("MatMul", ["means", "weights"], ["plain"]),
        *_needless(work),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
    ]
    weights = np.eye(3, dtype=np.float32) * np.float32(_SHARPNESS * (1 + noise))
    size = np.zeros((400, 400), np.float32)
    constants: dict[str, Any] = {"axes": np.array([1, 2]), "weights": weights}
    if work:
        constants |= {"loops": np.array(work), "true": np.array(True), "square": size}
    return _graph(
        nodes,
        constants,
        helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", SIDE, SIDE, 3]),
        helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", len(LABELS)]),
    )


def _with_features(model: onnx.ModelProto) -> onnx.ModelProto:
    model.graph.node.append(helper.make_node("Identity", ["means"], ["features"]))
    model.graph.output.append(helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", 3]))
    return model


def _needless(work: int) -> Sequence[onnx.NodeProto]:
    if not work:
        return [helper.make_node("Identity", ["plain"], ["logits"])]
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["keep_in"], ["keep_out"]),
            helper.make_node("MatMul", ["value_in", "square"], ["value_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("index", TensorProto.INT64, []),
            helper.make_tensor_value_info("keep_in", TensorProto.BOOL, []),
            helper.make_tensor_value_info("value_in", TensorProto.FLOAT, [400, 400]),
        ],
        [
            helper.make_tensor_value_info("keep_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("value_out", TensorProto.FLOAT, [400, 400]),
        ],
    )
    return [
        helper.make_node("Loop", ["loops", "true", "square"], ["product"], body=body),
        helper.make_node("ReduceSum", ["product"], ["nothing"], keepdims=0),
        helper.make_node("Add", ["plain", "nothing"], ["logits"]),
    ]


def _graph(nodes, constants, given, result) -> onnx.ModelProto:
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "colours", [given], [result], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model
