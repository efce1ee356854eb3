"""What a search chooses for a graph with random weights, against float32 on ONNX Runtime's own provider; shared."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from benchmarks.measure import alternate, conclude, median_of, ratios
from tfpipe.conversion_settings import ConversionConfig
from tfpipe.convert.examine import Yardstick
from tfpipe.convert.measure import Timing
from tfpipe.convert.quantize import Feed
from tfpipe.convert.recipe import Operators
from tfpipe.convert.search import Budget
from tfpipe.convert.variants import Found, Search, find_variants
from tfpipe.core.signature import Array, TensorSpec
from tfpipe.ort import open_session
from tfpipe.provenance import cpu_features

TURNS, THREADS = 7, 2
BUDGET = Budget(max_trials=12, max_s=480.0)


class Rows:
    """In the place of a conversion: rows of one shape.

    Args:
        operators: What the family takes well in INT8.
    """

    output = TensorSpec("probabilities", "float32", (None, None))

    def __init__(self, operators: Operators) -> None:
        self.int8_operators = operators

    def batch(self, rows: Sequence[Array]) -> Array:
        return np.stack(rows)

    def cut(self, probabilities: Array, rows: Sequence[Array]) -> list[Array]:
        return list(probabilities)

    def calibration(self, rows: Sequence[Array]) -> list[Feed]:
        return [{"input": np.stack(rows[start : start + 4])} for start in range(0, len(rows), 4)]


def by_processor(*, amx: float, vnni: float) -> float:
    """The goal on this processor; one without VNNI, for which INT8 is not made, is told and has that of one with."""
    features = cpu_features()
    if not any("vnni" in feature or "amx" in feature for feature in features):
        print("this processor has neither AMX nor VNNI: the goal is that of one with VNNI")
    return amx if "amx_int8" in features else vnni


def benchmark_choice(
    name: str,
    graphs: Mapping[str, onnx.ModelProto],
    rows: Sequence[Array],
    task: Any,
    operators: Operators,
    goal: float,
) -> None:
    """Search, then time what was chosen and float32 in turns.

    With random weights no score is measured: the gate judges size, parity, and whether rows depend on each other.

    Args:
        name: Of the benchmark.
        graphs: "fp32" and "fp16".
        rows: Of the model's input.
        task: What the answers are.
        operators: What the family takes well in INT8.
        goal: Times as fast as float32.
    """
    plain = open_session(graphs["fp32"].SerializeToString(), provider="cpu", threads=THREADS)
    references = [plain.run({"input": row[None]})["probabilities"][0] for row in rows]
    yardstick = Yardstick(Rows(operators), rows, references, None, task, 0.0, Timing(threads=THREADS))  # type: ignore[arg-type]
    found = find_variants(graphs, rows, yardstick, ConversionConfig(), search=Search(BUDGET))
    for trial, reason in found.trials:
        print(f"{trial.contender.title}: {trial.p50_ms:.2f} ms; {reason or 'chosen'}")
    contenders = {
        "fp32": median_of(lambda: plain.run({"input": rows[0][None]})),
        "chosen": _chosen(found, graphs, rows),
    }
    timed = alternate(contenders, repeats=TURNS)
    conclude(name, ratios(timed, "fp32", "chosen"), goal=goal, unit="times as fast as float32, one row, two threads")


def _chosen(found: Found, graphs: Mapping[str, onnx.ModelProto], rows: Sequence[Array]) -> Callable[[], float]:
    if found.chosen is None:
        raise SystemExit("search: expected something that passes the gate, as float32 does.")
    contender = found.chosen.contender
    graph = graphs[contender.precision] if contender.recipe is None else found.int8["int8"].graph
    session = open_session(
        graph.SerializeToString(),
        provider=contender.way.provider,
        arithmetic=contender.way.arithmetic,
        threads=THREADS,
        disabled_optimizers=contender.recipe.disabled_optimizers if contender.recipe else (),
    )
    return median_of(lambda: session.run({"input": rows[0][None]}))
