"""EfficientNet-B0 trained on digits at 32 x 32: what a search chooses passes the gate and is no slower than float32.

    make bench NAME=efficientnet

Where INT8 is slower than float32, as on some processors, float32 or a mixture is the right answer; the table says why
INT8 lost.
"""

import tempfile
from pathlib import Path

import tensorflow as tf

from benchmarks.measure import conclude
from benchmarks.trained_digits import table_of_trials, train_digits
from tfpipe.convert.pipeline import convert
from tfpipe.convert.search import Budget

# Moving averages of its batch normalisation follow 1 % a step: fewer steps, and it answers by chance.
EPOCHS, BATCH_SIZE = 20, 32


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = train_digits(
            folder,
            "model.name=efficientnet_b0",
            "preprocessing.image_size=[32,32]",
            "preprocessing.normalization=auto",
            f"training.epochs={EPOCHS}",
            f"training.batch_size={BATCH_SIZE}",
            "tracking.min_metrics={}",
        )
        result = convert(run, output=folder / "bundle", search=Budget(max_trials=14, max_s=480.0))
        print(table_of_trials(folder / "bundle"))
    best = result.bundle.executions()[0]
    fp32 = next(one for one in result.bundle.manifest.executions if one.title == "fp32, cpu")
    print(f"chosen: {best.title}; accuracy {best.metrics['accuracy']:.2%}, fp32 {fp32.metrics['accuracy']:.2%}")
    speed = fp32.latency_ms["1"]["p50"] / best.latency_ms["1"]["p50"]
    conclude("efficientnet", [speed], goal=1.0, unit="times as fast as float32, what the search chose, one row")


if __name__ == "__main__":
    tf.get_logger().setLevel("ERROR")
    main()
