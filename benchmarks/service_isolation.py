"""What a process of its own costs a model: the same session asked in this process and through `serving.child`.

    make bench NAME=service_isolation

Both run on one thread and take turns. Of the tiny model, a row of 8 x 8 pixels that costs nothing to compute, the way
there and back is what counts; of the larger one, eight images of 224 x 224 and some tens of milliseconds of arithmetic,
what a busy service loses. The value is the throughput of the latter in a process of its own over that inline.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.measure import alternate, conclude, median_of, ratios
from serving.child import ChildModel
from serving.child_process import ModelFile
from tfpipe.core.signature import Array
from tfpipe.ort import OnnxModel, open_session

TURNS = 7
# (name, rows, side of an image, products of 384 x 384 matrices, runs a turn)
CASES = (("tiny", 1, 8, 0, 1000), ("images", 8, 224, 20, 15))
GOAL = 0.95


def main() -> None:
    for name, rows, side, products, runs in CASES:
        batch = np.random.default_rng(0).random((rows, side, side, 3), np.float32)
        with tempfile.TemporaryDirectory() as folder:
            file = write_model(Path(folder), products)
            here = open_session(file, provider="cpu", threads=1)
            there = ChildModel("benchmark/1", ModelFile(file, provider="cpu", threads=1), run_timeout_s=60)
            contenders = {f"{name}, inline, ms": here, f"{name}, process, ms": there}
            figures = alternate(
                {title: median_of(asking(model, batch), runs=runs) for title, model in contenders.items()},
                repeats=TURNS,
            )
            there.close()
    conclude(
        "service_isolation",
        ratios(figures, *contenders),
        goal=GOAL,
        unit="throughput in a process of its own over that inline",
    )


def asking(model: OnnxModel | ChildModel, batch: Array) -> Callable[[], object]:
    return lambda: model.run({"input": batch})


def write_model(folder: Path, products: int) -> Path:
    """The mean of each channel, and needless products of matrices."""
    matrices = [helper.make_node("MatMul", [f"m{n}", "square"], [f"m{n + 1}"]) for n in range(products)]
    nodes = [
        helper.make_node("ReduceMean", ["input", "axes"], ["means"], keepdims=0),
        # Of the input, or the products would be computed once, when the session opens.
        helper.make_node("ReduceMean", ["input"], ["scale"], keepdims=0),
        helper.make_node("Mul", ["square", "scale"], ["m0"]),
        *matrices,
        helper.make_node("ReduceMean", [f"m{products}"], ["one"], keepdims=0),
        helper.make_node("Add", ["means", "one"], ["answers"]),
    ]
    graph = helper.make_graph(
        nodes,
        "means",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", "height", "width", 3])],
        [helper.make_tensor_value_info("answers", TensorProto.FLOAT, ["batch", 3])],
        [
            numpy_helper.from_array(np.array([1, 2]), "axes"),
            numpy_helper.from_array(np.full((384, 384), 1e-3, np.float32), "square"),
        ],
    )
    file = folder / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), file)
    return file


if __name__ == "__main__":
    main()
