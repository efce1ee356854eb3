"""Size, speed and accuracy of converted models, each over its goal; the result is the one that is nearest to its limit.

    make bench NAME=conversion

ResNet-50 at 224 x 224 with random weights: file sizes, and the time of a batch of one on one thread, FP32 over INT8,
in alternating turns. The digits classifier, trained here on 60 % of the digits: accuracy on 20 % that neither training
nor the choice of the best epoch has seen.
"""

import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.measure import alternate, conclude_nearest, median_of, ratios
from tfpipe.config import load_config
from tfpipe.convert.half import to_float16
from tfpipe.convert.pipeline import convert
from tfpipe.convert.quantize import to_int8
from tfpipe.convert.recipe import Recipe
from tfpipe.convert.to_onnx import network_to_onnx
from tfpipe.data.arrays import open_digits
from tfpipe.data.sources import Subset, to_pixels
from tfpipe.models.assembly import ImageParts, assemble, build_network, build_preprocessing
from tfpipe.models.zoo import CAFFE
from tfpipe.ort import open_session
from tfpipe.scoring import BundleScorer
from tfpipe.train import train

SIDE = 224
CALIBRATION_SAMPLES = 8
TURNS = 7
RUNS = 10
# Figures may reach: shares of FP32's file, times as fast, and accuracy.
LARGEST_FP16, LARGEST_INT8, LEAST_SPEED_UP = 0.51, 0.28, 2.4
LEAST_ACCURACY, LARGEST_LOSS = 0.98, 0.005


def digits(split: str, config: Any) -> Subset:
    """What `data.path` names below: every fifth digit is for the test, every fifth for validation."""
    source = open_digits()
    fifth = np.random.default_rng(0).permutation(len(source)) % 5
    wanted = {"test": fifth == 0, "validation": fifth == 1, "train": fifth > 1}[split]
    return Subset(source, np.flatnonzero(wanted))


def main() -> None:
    margins = {**resnet_margins(), **digits_margins()}
    print()
    for name, values in margins.items():
        print(f"{name}: {statistics.median(values):.3f} of what its goal asks")
    conclude_nearest("conversion", margins)


def resnet_margins() -> dict[str, list[float]]:
    """What each figure of ResNet-50 is of its goal; above 1 it is reached."""
    parts, rows = resnet50(num_classes=10)
    graphs = {"fp32": network_to_onnx(parts, opset=18, metadata={})}
    graphs["int8"] = to_int8(graphs["fp32"], [{"input": rows}], Recipe("all", "minmax"))
    files = {name: graph.SerializeToString() for name, graph in graphs.items()}
    files["fp16"] = to_float16(graphs["fp32"])[0].SerializeToString()
    for name, content in files.items():
        print(f"resnet50 {name}: {len(content) / 1e6:.1f} MB, {len(content) / len(files['fp32']):.1%} of fp32")

    timed = alternate({name: _batch_of_one(files[name], rows[:1]) for name in ("fp32", "int8")}, repeats=TURNS)
    for name, values in timed.items():
        print(f"resnet50 {name}: {', '.join(f'{value:.1f}' for value in values)} ms")
    speed_ups = ratios(timed, "fp32", "int8")
    print(f"resnet50 int8 is {statistics.median(speed_ups):.2f} times as fast as fp32, batch of one, one thread")
    return {
        "fp16 file": [LARGEST_FP16 * len(files["fp32"]) / len(files["fp16"])],
        "int8 file": [LARGEST_INT8 * len(files["fp32"]) / len(files["int8"])],
        "int8 speed": [value / LEAST_SPEED_UP for value in speed_ups],
    }


def resnet50(num_classes: int) -> tuple[ImageParts, np.ndarray]:
    """The model at 224 x 224 with random weights, and preprocessed digits."""
    config = load_config(
        None, ["model.name=resnet50", f"preprocessing.image_size=[{SIDE},{SIDE}]", "preprocessing.normalization=auto"]
    )
    labels = tuple(map(str, range(num_classes)))
    parts = assemble(build_preprocessing(config.preprocessing, CAFFE), build_network(config, len(labels)), labels)
    source = open_digits()
    rows = [
        np.asarray(parts.preprocessing.rows(to_pixels(source.read(i)[0])[None])) for i in range(CALIBRATION_SAMPLES)
    ]
    return parts, np.concatenate(rows)


def _batch_of_one(model: bytes, row: np.ndarray) -> Callable[[], float]:
    """A contender: the median milliseconds of some runs."""
    session = open_session(model, provider="cpu", threads=1)
    return median_of(lambda: session.run({"input": row}), runs=RUNS)


def digits_margins() -> dict[str, list[float]]:
    """What each accuracy of the digits classifier is of its goal."""
    with tempfile.TemporaryDirectory() as folder:
        config = load_config(
            None,
            ["data.path=benchmarks.conversion:digits", f"output_dir={folder}/run",
             f"tracking.uri=sqlite:///{folder}/mlflow.db"],
        )  # fmt: skip
        train(config)
        convert(Path(folder) / "run", precision="int8", output=Path(folder) / "bundle")
        test = digits("test", config)
        samples = [test.read(index) for index in range(len(test))]
        images = [to_pixels(sample) for sample, _ in samples]
        labels = np.array([label for _, label in samples])
        accuracy = {}
        for precision in ("fp32", "fp16", "int8"):
            scorer = BundleScorer(Path(folder) / "bundle", precision=precision)
            prepared = [scorer.inference.prepare(image) for image in images]
            predicted = [rows[0].argmax() for rows in scorer.probabilities(prepared)]
            accuracy[precision] = float((np.array(predicted) == labels).mean())
            print(f"digits {precision}: {accuracy[precision]:.2%} of {len(labels)} test images right")
    return {
        "digits fp32 accuracy": [accuracy["fp32"] / LEAST_ACCURACY],
        "digits int8 accuracy": [accuracy["int8"] / (accuracy["fp32"] - LARGEST_LOSS)],
    }


if __name__ == "__main__":
    tf.get_logger().setLevel("ERROR")
    main()
