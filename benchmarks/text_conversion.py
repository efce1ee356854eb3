"""Size and speed of a converted BERT-base, each over its goal; the result is the one that is nearest to its limit.

    make bench NAME=text_conversion

12 layers of width 768, vocabulary 30,522, random weights; one row of 128 tokens, one thread and two, in alternating
turns. INT8 is the static variant, whose rows do not depend on each other; by how much those of the dynamic one do is
printed beside it. With random weights, accuracy would say nothing.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
import onnx
import tensorflow as tf

from benchmarks.measure import alternate, conclude_nearest, median_of, ratios
from benchmarks.processes import ROOT
from tfpipe.config import load_config
from tfpipe.convert.half import to_float16
from tfpipe.convert.quantize import to_int8
from tfpipe.convert.recipe import Recipe
from tfpipe.convert.to_onnx import text_network_to_onnx
from tfpipe.models.text_zoo import Tokens, build_text_network
from tfpipe.ort import OnnxModel, open_session
from tfpipe.preprocessing.layers import Probabilities

VOCABULARY, LENGTH, CLASSES = 30_522, 128, 2
TURNS = 5
PATIENCE_S = 900
# Figures may reach: times as fast, and shares of FP32's file.
LEAST_INT8, LEAST_FP32, LARGEST_INT8, LARGEST_FP16 = 2.6, 1.2, 0.45, 0.51
RECIPES = {"int8": Recipe("products", "minmax"), "dynamic": Recipe("products", "dynamic")}


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shares = convert(folder)
        margins = {"int8 file": [LARGEST_INT8 / shares["int8"]], "fp16 file": [LARGEST_FP16 / shares["fp16"]]}
        for threads in (1, 2):
            figures = timed_in_a_process(folder, threads)
            for name, base, goal in (("int8", "fp32", LEAST_INT8), ("fp32", "keras", LEAST_FP32)):
                speeds = ratios(figures, base, name)
                margins[f"{name} speed, {threads} threads"] = [value / goal for value in speeds]
    print()
    for figure, values in margins.items():
        print(f"{figure}: {statistics.median(values):.3f} of what its goal asks")
    conclude_nearest("text_conversion", margins)


def bert_base() -> keras.Model:
    """The network, random weights."""
    config = load_config(
        None,
        ["task=text_classification", "data.path=texts", "model.name=bert", "model.num_layers=12", "model.width=768",
         "model.num_heads=12", "model.feed_forward_width=3072"],
    )  # fmt: skip
    return build_text_network(config, Tokens(VOCABULARY, 0, 512), CLASSES, per_token=False)


def graph_of(network: keras.Model) -> onnx.ModelProto:
    """The float32 graph."""
    answers = Probabilities([str(label) for label in range(CLASSES)], name="probabilities")
    started = time.perf_counter()
    graph = text_network_to_onnx(network, answers, num_outputs=CLASSES, per_token=False, opset=18, metadata={})
    print(f"fp32: {time.perf_counter() - started:.0f} s to convert, {len(graph.graph.node)} operators")
    return graph


def convert(folder: Path) -> dict[str, float]:
    """Write all variants; the share of each of float32's file."""
    network = bert_base()
    network.save(folder / "network.keras")
    graph = graph_of(network)
    del network
    size = write(folder, "fp32", graph.SerializeToString())
    shares = {}
    for variant, recipe in RECIPES.items():
        content = to_int8(graph, [{"input": some_rows(4, seed)} for seed in range(2)], recipe).SerializeToString()
        shares[variant] = write(folder, variant, content) / size
        print_dependence(variant, open_session(content, provider="cpu", disabled_optimizers=recipe.disabled_optimizers))
    shares["fp16"] = write(folder, "fp16", to_float16(graph)[0].SerializeToString()) / size
    print(f"fp32 file: {size / 1e6:.1f} MB; shares of it: {shares}")
    return shares


def print_dependence(variant: str, session: OnnxModel) -> None:
    """By how much a row's answer depends on the rows beside it."""
    rows = some_rows(16, seed=9)
    together = session.run({"input": rows})["probabilities"]
    alone = np.concatenate([session.run({"input": row[None]})["probabilities"] for row in rows])
    print(f"{variant}: 16 rows together against alone differ by {np.abs(together - alone).max():.3g}, ", end="")
    print(f"where probabilities of rows vary by {np.ptp(alone[:, 0]):.3g}")


def timed_in_a_process(folder: Path, threads: int) -> dict[str, list[float]]:
    """Milliseconds of each contender and turn, by a process with so many threads."""
    command = [sys.executable, "-m", "benchmarks.text_conversion", str(folder), str(threads)]
    printed = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True, timeout=PATIENCE_S)
    *lines, result = printed.stdout.splitlines()
    print(f"\n{threads} threads", *lines, sep="\n")
    figures: dict[str, list[float]] = json.loads(result)
    for name, base in (("int8", "fp32"), ("dynamic", "fp32"), ("fp32", "keras")):
        values = ratios(figures, base, name)
        print(f"{name} is {statistics.median(values):.2f} times as fast as {base}, {min(values):.2f}-{max(values):.2f}")
    return figures


def time_with(folder: Path, threads: int) -> None:
    """Print the milliseconds of each contender and turn, as JSON."""
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    network = keras.saving.load_model(folder / "network.keras")
    row = some_rows(1, seed=5)
    contenders = {"keras": median_of(lambda: network.predict(row, verbose=0))}
    for variant, recipe in {"fp32": None, **RECIPES}.items():
        session = open_session(
            folder / variant,
            provider="cpu",
            threads=threads,
            disabled_optimizers=recipe.disabled_optimizers if recipe else (),
        )
        contenders[variant] = median_of(lambda session=session: session.run({"input": row}))
    print(json.dumps(alternate(contenders, repeats=TURNS)))


def some_rows(count: int, seed: int) -> np.ndarray:
    """Rows of 128 random ids; of several, each is shorter than the one before and padded."""
    random = np.random.default_rng(seed)
    rows = random.integers(1, VOCABULARY, (count, LENGTH), dtype=np.int32)
    for number, row in enumerate(rows):
        row[LENGTH - number * LENGTH // (2 * count) :] = 0
    return rows


def write(folder: Path, name: str, content: bytes) -> int:
    """Write a variant; its size in bytes."""
    return (folder / name).write_bytes(content)


if __name__ == "__main__":
    tf.get_logger().setLevel("ERROR")
    if len(sys.argv) > 1:
        time_with(Path(sys.argv[1]), int(sys.argv[2]))
    else:
        main()
