"""INT8 ResNet-50 at 224 x 224 on ONNX Runtime's own provider, over float32 and over Keras; each over its goal.

    make bench NAME=int8_resnet50

Random weights, 1,000 classes, batch of one, two threads, in alternating turns. Over float32 the goal is 2.4 where the
processor has AMX, 3 where it has VNNI alone; over a `tf.function` 4.5. No probability may become 0. What INT8 costs in
accuracy is measured by `make bench NAME=conversion`.
"""

import statistics

import numpy as np
import tensorflow as tf

from benchmarks.chosen import by_processor
from benchmarks.conversion import LARGEST_INT8, resnet50
from benchmarks.measure import alternate, conclude_nearest, median_of, ratios
from tfpipe.convert.quantize import to_int8
from tfpipe.convert.recipe import Recipe
from tfpipe.convert.to_onnx import network_to_onnx
from tfpipe.ort import open_session

THREADS, TURNS = 2, 7
OVER_KERAS = 4.5


def main() -> None:
    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    parts, rows = resnet50(num_classes=1000)
    graph = network_to_onnx(parts, opset=18, metadata={})
    int8 = to_int8(
        graph, [{"input": rows[start : start + 4]} for start in range(0, len(rows), 4)], Recipe("all", "minmax")
    )
    files = {"fp32": graph.SerializeToString(), "int8": int8.SerializeToString()}
    sessions = {name: open_session(file, provider="cpu", threads=THREADS) for name, file in files.items()}
    lost = int(np.count_nonzero(sessions["int8"].run({"input": rows})["probabilities"] == 0))
    print(f"int8 file: {len(files['int8']) / len(files['fp32']):.1%} of fp32's; probabilities that became 0: {lost}")

    keras = tf.function(lambda row: parts.probabilities(parts.network(row, training=False)))
    row = tf.constant(rows[:1])
    contenders = {
        name: median_of(lambda session=session: session.run({"input": rows[:1]})) for name, session in sessions.items()
    }
    timed = alternate({**contenders, "keras": median_of(lambda: keras(row).numpy())}, repeats=TURNS)
    goal = by_processor(amx=2.4, vnni=3.0)
    for base in ("fp32", "keras"):
        print(f"int8 is {statistics.median(ratios(timed, base, 'int8')):.2f} times as fast as {base}")
    margins = {
        "over fp32": [value / goal for value in ratios(timed, "fp32", "int8")],
        "over Keras": [value / OVER_KERAS for value in ratios(timed, "keras", "int8")],
        "file": [LARGEST_INT8 * len(files["fp32"]) / len(files["int8"])],
        "no probability lost": [2.0 if lost == 0 else 0.0],
    }
    conclude_nearest("int8_resnet50", margins)


if __name__ == "__main__":
    tf.get_logger().setLevel("ERROR")
    main()
