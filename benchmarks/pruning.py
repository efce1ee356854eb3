"""Dense and pruned digits classifiers side by side: accuracy, and the size of the ONNX file when it is compressed.

    make bench NAME=pruning

The same run four times, to sparsities of 0, 50, 80 and 90 %, on 60 % of the digits; accuracy is that of test images
which neither training nor the choice of the best epoch has seen. The value is how many times smaller the compressed
file is at 80 %; it counts as passed only where no more than a point of accuracy was lost there.
"""

import tempfile
import zlib
from pathlib import Path

import numpy as np
import tensorflow as tf

from benchmarks.conversion import digits
from benchmarks.measure import conclude
from tfpipe.config import load_config
from tfpipe.convert.sparsity import zero_share
from tfpipe.convert.to_onnx import network_to_onnx
from tfpipe.data.sources import to_pixels
from tfpipe.models.assembly import ImageParts, load_model
from tfpipe.train import train

SPARSITIES = (0.0, 0.5, 0.8, 0.9)
JUDGED = 0.8
# Zeros are 80 % of the numbers, and a random float32 does not compress by much.
LEAST_SMALLER = 3.0
LARGEST_LOSS = 0.01


def main() -> None:
    figures = {sparsity: measured(sparsity) for sparsity in SPARSITIES}
    dense_accuracy, dense_bytes = figures[0.0]
    print(f"{'pruned':>8}{'accuracy':>10}{'lost':>8}{'compressed':>12}{'of dense':>10}")
    for sparsity, (accuracy, size) in figures.items():
        print(
            f"{sparsity:8.0%}{accuracy:10.2%}{dense_accuracy - accuracy:8.2%}{size / 1e6:9.3f} MB"
            f"{size / dense_bytes:10.1%}"
        )
    accuracy, size = figures[JUDGED]
    is_good = dense_accuracy - accuracy <= LARGEST_LOSS
    conclude("pruning", [dense_bytes / size if is_good else 0.0], goal=LEAST_SMALLER, unit="times smaller, compressed")


def measured(sparsity: float) -> tuple[float, int]:
    """Test accuracy of a run to a sparsity, and the bytes of its compressed file."""
    with tempfile.TemporaryDirectory() as folder:
        overrides = [
            "data.path=benchmarks.conversion:digits", f"training.pruning.sparsity={sparsity}",
            f"output_dir={folder}/run", f"tracking.uri=sqlite:///{folder}/mlflow.db",
        ]  # fmt: skip
        train(load_config(None, overrides))
        parts = load_model(Path(folder) / "run" / "model.keras")
    if not isinstance(parts, ImageParts):
        raise TypeError(f"parts: expected those of an image classifier, received {type(parts).__name__}.")
    graph = network_to_onnx(parts, opset=18, metadata={})
    print(f"pruned to {sparsity:.0%}: {zero_share(graph):.1%} of the file's weights are 0", flush=True)
    return accuracy_of(parts), len(zlib.compress(graph.SerializeToString()))


def accuracy_of(parts: ImageParts) -> float:
    """Share of the test images that the model names rightly."""
    test = digits("test", None)
    samples = [test.read(index) for index in range(len(test))]
    images = np.stack([to_pixels(sample) for sample, _ in samples])
    predicted = np.asarray(parts.model.predict(images, verbose=0)).argmax(axis=1)
    return float((predicted == np.array([label for _, label in samples])).mean())


if __name__ == "__main__":
    tf.get_logger().setLevel("ERROR")
    main()
