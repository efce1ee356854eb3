"""A model graph that may be shipped, and what was measured of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

from tfpipe.convert import measure
from tfpipe.convert.conversion import Conversion
from tfpipe.convert.gate import Figures
from tfpipe.convert.onnx_file import file_bytes, open_graph, save_model
from tfpipe.convert.recipe import DYNAMIC
from tfpipe.convert.weights import list_weights, weight_bytes
from tfpipe.core.bundle import Execution, Variant
from tfpipe.core.signature import Array
from tfpipe.latency import BATCH_SIZES, Feed, Trial, try_out
from tfpipe.ort import OnnxModel
from tfpipe.ort_providers import Way
from tfpipe.settings import ConversionConfig

_INVARIANCE_ROWS = 8
# A slow model is run less often than asked rather than for many minutes.
_MOST_S, _TIMEOUT_S = 60.0, 300.0


@dataclass(frozen=True)
class Candidate:
    """A model graph at one precision.

    Attributes:
        name: Of the variant, e.g. "int8".
        precision: "fp32", "fp16" or "int8".
        graph: From rows to probabilities.
        recipe: How it was made, for the manifest.
        kept: Why a weight was kept in a higher precision, by name, where the converter said so.
    """

    name: str
    precision: str
    graph: onnx.ModelProto
    recipe: Mapping[str, Any]
    kept: Mapping[str, str] = field(default_factory=dict)

    @property
    def file(self) -> str:
        """Its path inside the bundle."""
        return f"model.{self.name}.onnx"

    def session(self, *, threads: int | None = None) -> OnnxModel:
        """The graph on the CPU as the service would open it."""
        disabled = self.recipe.get("disabled_optimizers", ())
        return open_graph(self.graph, threads=threads, disabled_optimizers=disabled)


@dataclass(frozen=True)
class Measured:
    """A candidate, written and measured.

    Attributes:
        variant: For the manifest.
        execution: By ONNX Runtime's own CPU provider.
        figures: For the gate.
        neighbours: By how much a row's answer differs beside others; probabilities.
    """

    variant: Variant
    execution: Execution
    figures: Figures
    neighbours: float


def time_alone(candidate: Candidate, folder: Path, batches: Mapping[int, Feed], runs: int) -> Trial:
    """Time a candidate's file on the CPU in a process of its own, whose memory is then what it needs.

    Args:
        candidate: Written into `folder`.
        folder: Of the bundle being made.
        batches: Inputs by batch size.
        runs: Of each.
    """
    return try_out(
        folder / candidate.file,
        Way("cpu", "float32"),
        answered=(),
        batches=batches,
        threads=measure.LATENCY_THREADS,
        disabled_optimizers=candidate.recipe.get("disabled_optimizers", ()),
        max_s=_MOST_S,
        most_runs=runs,
        timeout_s=_TIMEOUT_S,
    )


def measure_candidate(
    candidate: Candidate,
    conversion: Conversion,
    rows: Sequence[Array],
    folder: Path,
    config: ConversionConfig,
    scores: measure.Scores | None,
    golden_max_abs_diff: float,
) -> Measured:
    """Write a candidate's file and measure it, alone on the machine.

    Args:
        candidate: With the metadata that its file is to have.
        conversion: Of the model.
        rows: Of the model's input, for latency and batch invariance.
        folder: Of the bundle being made.
        config: How often to measure.
        scores: Which include the candidate's; None where there are no validation data.
        golden_max_abs_diff: Largest difference from Keras's golden answers.
    """
    save_model(candidate.graph, folder / candidate.file)
    session = candidate.session(threads=measure.LATENCY_THREADS)
    apart = measure.neighbours_difference(session, conversion, rows[:_INVARIANCE_ROWS])
    sizes = {size: [rows[i % len(rows)] for i in range(size)] for size in BATCH_SIZES}
    trial = time_alone(
        candidate,
        folder,
        {size: {"input": conversion.batch(together)} for size, together in sizes.items()},
        config.latency_runs,
    )
    latency = trial.speed.latency_ms
    metrics: dict[str, float] = {}
    if scores is not None:
        metrics = scores.metrics(candidate.name) | {"top1_agreement": scores.agreement(candidate.name)}
    size = file_bytes(folder / candidate.file)
    variant = Variant(
        precision=candidate.precision,
        file=candidate.file,
        recipe=dict(candidate.recipe),
        size_bytes=size,
        metrics=metrics,
        latency_ms={batch: figures["p50"] for batch, figures in latency.items()},
        # Ranges that each batch sets depend on it, even where these few rows do not show it.
        batch_invariant=measure.is_batch_invariant(apart) and candidate.recipe.get("calibration_method") != DYNAMIC,
        neighbours_max_abs_diff=apart,
        golden_max_abs_diff=golden_max_abs_diff,
        weights=list_weights(candidate.graph, candidate.precision, dict(candidate.kept)),
    )
    execution = Execution(
        variant=candidate.name,
        golden_max_abs_diff=golden_max_abs_diff,
        batch_invariant=variant.batch_invariant,
        metrics=metrics,
        latency_ms=latency,
        rows_per_second=trial.speed.rows_per_second,
        peak_memory_bytes=trial.peak_memory_bytes,
    )
    figures = Figures(
        candidate.precision,
        size,
        weight_bytes(candidate.graph),
        None if scores is None else scores.headline(candidate.name),
        "accuracy" if scores is None else scores.task.headline,
        apart,
        {} if scores is None else scores.recalls(candidate.name),
        latency["1"]["p50"],
        latency["1"]["p95"],
    )
    return Measured(variant, execution, figures, apart)
