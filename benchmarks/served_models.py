"""Bundles that the benchmarks of the service ask, made where they are missing and kept in build/benchmarks."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tfpipe.core import atomic
from tfpipe.core.bundle import Manifest, Variant, open_bundle, seal, write_golden
from tfpipe.core.errors import BundleError
from tfpipe.core.signature import TensorSpec
from tfpipe.decode import decode_image
from tfpipe.ort import open_session

BUILD = Path("build/benchmarks")
TINY_SIDE = 28
_HIDDEN = 32
_CLASSES = 10


def tiny_bundle() -> Path:
    """A net of 26,000 weights on 28 x 28 grey pixels: next to nothing to compute, so that the service is measured."""
    return _kept("tiny", lambda folder: _write(folder, "tiny", _grey_rows(), {"fp32": _perceptron()}, _TINY_ROW))


def resnet50_bundle() -> Path:
    """ResNet-50 at 224 x 224 with random weights, FP32 and static INT8."""

    def build(folder: Path) -> None:
        # TensorFlow, for as long as it is made.
        from benchmarks.conversion import resnet50
        from tfpipe.convert.passes import preprocessing_passes, run_passes
        from tfpipe.convert.quantize import to_int8
        from tfpipe.convert.recipe import Recipe
        from tfpipe.convert.to_onnx import network_to_onnx, preprocessing_to_onnx

        parts, rows = resnet50(num_classes=1000)
        network = network_to_onnx(parts, opset=18, metadata={})
        variants = {"fp32": network, "int8": to_int8(network, [{"input": rows}], Recipe("all", "minmax"))}
        row = TensorSpec("input", "float32", ("batch", *rows.shape[1:]))
        preprocess = preprocessing_to_onnx(parts, opset=18, metadata={})
        pixels = np.zeros((37, 53, 3), np.uint8)
        preprocess, _ = run_passes(preprocess, preprocessing_passes(18), inputs=[{"image": pixels}])
        _write(folder, "resnet50", preprocess, variants, row, classes=1000)

    return _kept("resnet50", build)


def graphs_of(bundle: Path, precision: str, *, preprocess: bool) -> Path:
    """A folder with a bundle's graphs as the peers take them; see benchmarks/peers/model.py."""
    folder = BUILD / f"{bundle.name}-{precision}{'-pixels' if preprocess else ''}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copy(bundle / f"model.{precision}.onnx", folder / "model.onnx")
    if preprocess:
        shutil.copy(bundle / "preprocess.onnx", folder)
    return folder


_TINY_ROW = TensorSpec("input", "float32", ("batch", TINY_SIDE, TINY_SIDE, 1))


def _kept(name: str, build: Any) -> Path:
    folder = BUILD / name
    try:
        open_bundle(folder)
    except BundleError:
        shutil.rmtree(folder, ignore_errors=True)
        BUILD.mkdir(parents=True, exist_ok=True)
        with atomic.staged_folder(folder) as staged:
            build(staged)
    return folder


def _write(
    folder: Path,
    name: str,
    preprocess: onnx.ModelProto,
    models: Mapping[str, onnx.ModelProto],
    row: TensorSpec,
    *,
    classes: int = _CLASSES,
) -> None:
    onnx.save(preprocess, folder / "preprocess.onnx")
    variants = {}
    for precision, model in models.items():
        path = folder / f"model.{precision}.onnx"
        onnx.save(model, path)
        variants[precision] = Variant(
            precision, path.name, {}, path.stat().st_size, {"accuracy": 1.0}, {"1": 1.0}, True, 0.05, {}
        )
    default = list(models)[-1]
    write_golden(folder, _golden(folder, models["fp32"]))
    manifest = Manifest(
        model_name=name,
        model_version=None,
        task="image_classification",
        labels=tuple(f"class {index}" for index in range(classes)),
        inputs=(row,),
        outputs=(TensorSpec("probabilities", "float32", ("batch", classes)),),
        preprocess_inputs=(TensorSpec("image", "uint8", ("height", "width", 3)),),
        variants=variants,
        default_variant=default,
        training={},
        measured_on={},
        created="2026-01-01T00:00:00+00:00",
    )
    seal(folder, manifest)


def _golden(folder: Path, model: onnx.ModelProto) -> Sequence[tuple[str, bytes, np.ndarray]]:
    content = jpeg(224, 224, seed=1)
    rows = open_session(folder / "preprocess.onnx", provider="cpu", threads=1).run({"image": decode_image(content)})
    session = open_session(model.SerializeToString(), provider="cpu", threads=1)
    return [("noise.jpg", content, session.run({"input": rows["input"][None]})["probabilities"][0])]


def jpeg(height: int, width: int, *, seed: int) -> bytes:
    """A picture with detail as photographs have it."""
    from tfpipe.bench.asking import AskedModel
    from tfpipe.bench.samples import make_samples

    made = make_samples(AskedModel("", None, "image"), image_size=(height, width), text_words=0, seed=seed)[0]
    if not isinstance(made, bytes):
        raise TypeError("expected an encoded image")
    return made


def _grey_rows() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["float", "last"], ["grey"], keepdims=1),
        helper.make_node("Transpose", ["grey"], ["plane"], perm=[2, 0, 1]),
        helper.make_node("Unsqueeze", ["plane", "zero"], ["batch"]),
        helper.make_node("Resize", ["batch", "", "", "size"], ["small"], mode="linear"),
        helper.make_node("Reshape", ["small", "shape"], ["shaped"]),
        helper.make_node("Div", ["shaped", "scale"], ["input"]),
    ]
    constants = {"zero": np.array([0]), "last": np.array([2]), "scale": np.float32(255.0)}
    constants |= {"size": np.array([1, 1, TINY_SIDE, TINY_SIDE]), "shape": np.array([TINY_SIDE, TINY_SIDE, 1])}
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["height", "width", 3])
    row = helper.make_tensor_value_info("input", TensorProto.FLOAT, [TINY_SIDE, TINY_SIDE, 1])
    return _graph(nodes, constants, image, row)


def _perceptron() -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weights = {
        "first": rng.normal(0, 0.05, (TINY_SIDE**2, _HIDDEN)).astype(np.float32),
        "second": rng.normal(0, 0.2, (_HIDDEN, _CLASSES)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Flatten", ["input"], ["flat"]),
        helper.make_node("MatMul", ["flat", "first"], ["hidden"]),
        helper.make_node("Relu", ["hidden"], ["active"]),
        helper.make_node("MatMul", ["active", "second"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
    ]
    rows = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", TINY_SIDE, TINY_SIDE, 1])
    answers = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", _CLASSES])
    return _graph(nodes, weights, rows, answers)


def _graph(nodes: Any, constants: Mapping[str, Any], given: Any, result: Any) -> onnx.ModelProto:
    initializers = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "benchmark", [given], [result], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model
