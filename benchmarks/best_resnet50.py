"""ResNet-50 at 224 x 224: what a search chooses on this machine over float32 on ONNX Runtime's own provider.

    make bench NAME=best_resnet50

Random weights; one row, two threads, in alternating turns. The goal is 4 where the processor has AMX, 2.8 where it has
VNNI alone.
"""

import tensorflow as tf

from benchmarks.chosen import benchmark_choice, by_processor
from benchmarks.conversion import resnet50
from tfpipe.convert.half import to_float16
from tfpipe.convert.to_onnx import network_to_onnx


def main() -> None:
    parts, rows = resnet50(num_classes=1000)
    graph = network_to_onnx(parts, opset=18, metadata={})
    graphs = {"fp32": graph, "fp16": to_float16(graph)[0]}
    benchmark_choice("best_resnet50", graphs, list(rows), parts.task, "all", by_processor(amx=4.0, vnni=2.8))


if __name__ == "__main__":
    tf.get_logger().setLevel("ERROR")
    main()
