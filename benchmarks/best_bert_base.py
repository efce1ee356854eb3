"""BERT-base at 128 tokens: what a search chooses on this machine over float32 on ONNX Runtime's own provider.

    make bench NAME=best_bert_base

Random weights; one row, two threads, in alternating turns. The goal is 4 where the processor has AMX, 2.8 where it has
VNNI alone.
"""

import tensorflow as tf

from benchmarks.chosen import benchmark_choice, by_processor
from benchmarks.text_conversion import CLASSES, bert_base, graph_of, some_rows
from tfpipe.convert.half import to_float16
from tfpipe.tasks.single_label import SingleLabel


def main() -> None:
    graph = graph_of(bert_base())
    graphs = {"fp32": graph, "fp16": to_float16(graph)[0]}
    task = SingleLabel(tuple(map(str, range(CLASSES))))
    goal = by_processor(amx=4.0, vnni=2.8)
    benchmark_choice("best_bert_base", graphs, list(some_rows(8, seed=0)), task, "products", goal)


if __name__ == "__main__":
    tf.get_logger().setLevel("ERROR")
    main()
