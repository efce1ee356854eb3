"""A model graph that may be shipped, and what was measured of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx

from tfpipe.conversion_settings import ConversionConfig
from tfpipe.convert import measure
from tfpipe.convert.conversion import Conversion
from tfpipe.convert.examine import Known
from tfpipe.convert.gate import Figures
from tfpipe.convert.onnx_file import file_bytes, open_graph, save_model
from tfpipe.convert.recipe import DYNAMIC
from tfpipe.convert.weights import list_weights, weight_bytes
from tfpipe.core.bundle import Execution, Variant
from tfpipe.core.signature import Array
from tfpipe.latency import Feed, Trial
from tfpipe.ort import OnnxModel
from tfpipe.ort_providers import Way

_INVARIANCE_ROWS = 8


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


def write_candidate(candidate: Candidate, folder: Path, metadata: Mapping[str, str]) -> Path:
    """Write a candidate's file.

    Args:
        candidate: Its graph is given the metadata.
        folder: Of the bundle being made.
        metadata: What the file says of itself beside its precision.
    """
    onnx.helper.set_model_props(candidate.graph, dict(metadata) | {"precision": candidate.precision})
    path = folder / candidate.file
    save_model(candidate.graph, path)
    return path


def time_alone(candidate: Candidate, folder: Path, batches: Mapping[int, Feed], runs: int) -> Trial:
    """Time a candidate's file on the CPU in a process of its own, whose memory is then what it needs.

    Args:
        candidate: Written into `folder`.
        folder: Of the bundle being made.
        batches: Inputs by batch size.
        runs: Of each.
    """
    return measure.time_apart(
        folder / candidate.file,
        Way("cpu", "float32"),
        batches,
        measure.reported_timing(runs),
        disabled_optimizers=candidate.recipe.get("disabled_optimizers", ()),
    )


def measured(
    candidate: Candidate,
    folder: Path,
    tried: Trial,
    *,
    neighbours: float,
    golden_max_abs_diff: float,
    scores: measure.Scores | None = None,
) -> Measured:
    """All figures of a candidate.

    Args:
        candidate: Written into `folder`.
        folder: Of the bundle being made.
        tried: As it was timed.
        neighbours: By how much a row's answer differs beside others.
        golden_max_abs_diff: Largest difference from Keras's golden answers.
        scores: Which include the candidate's; None where there are no validation data.
    """
    name, size_bytes, speed = candidate.name, file_bytes(folder / candidate.file), tried.speed
    metrics = {} if scores is None else scores.metrics(name) | {"top1_agreement": scores.agreement(name)}
    # Ranges that each batch sets depend on it, even where these few rows do not show it.
    is_static = candidate.recipe.get("calibration_method") != DYNAMIC
    variant = Variant(
        precision=candidate.precision,
        file=candidate.file,
        recipe=dict(candidate.recipe),
        size_bytes=size_bytes,
        metrics=metrics,
        latency_ms={batch: figures["p50"] for batch, figures in speed.latency_ms.items()},
        batch_invariant=is_static and measure.is_batch_invariant(neighbours),
        neighbours_max_abs_diff=neighbours,
        golden_max_abs_diff=golden_max_abs_diff,
        weights=list_weights(candidate.graph, candidate.precision, dict(candidate.kept)),
    )
    execution = Execution(
        variant=name,
        golden_max_abs_diff=golden_max_abs_diff,
        batch_invariant=variant.batch_invariant,
        metrics=metrics,
        latency_ms=speed.latency_ms,
        rows_per_second=speed.rows_per_second,
        peak_memory_bytes=tried.peak_memory_bytes,
    )
    figures = Figures(
        candidate.precision,
        size_bytes,
        weight_bytes(candidate.graph),
        None if scores is None else scores.headline(name),
        "accuracy" if scores is None else scores.task.headline,
        neighbours,
        {} if scores is None else scores.recalls(name),
        speed.latency_ms["1"]["p50"],
        speed.latency_ms["1"]["p95"],
    )
    return Measured(variant, execution, figures, neighbours)


def measure_candidate(
    candidate: Candidate,
    conversion: Conversion,
    rows: Sequence[Array],
    folder: Path,
    config: ConversionConfig,
    scores: measure.Scores | None,
    golden_max_abs_diff: float,
    known: Known | None = None,
) -> Measured:
    """Measure a candidate, alone on the machine.

    Args:
        candidate: Written into `folder`.
        conversion: Of the model.
        rows: Of the model's input, for latency and batch invariance.
        folder: Of the bundle being made.
        config: How often to measure.
        scores: Which include the candidate's; None where there are no validation data.
        golden_max_abs_diff: Largest difference from Keras's golden answers.
        known: As it was measured already in the way that is reported; None where it was not.
    """
    tried, neighbours = (None, None) if known is None else (known.tried, known.neighbours)
    if neighbours is None:
        session = candidate.session(threads=measure.LATENCY_THREADS)
        neighbours = measure.neighbours_difference(session, conversion, rows[:_INVARIANCE_ROWS])
    if tried is None:
        tried = time_alone(candidate, folder, measure.timed_batches(conversion, rows), config.latency_runs)
    return measured(
        candidate, folder, tried, neighbours=neighbours, golden_max_abs_diff=golden_max_abs_diff, scores=scores
    )
