"""What a backend other than ONNX adds to a bundle, measured and judged like the rest of it."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tfpipe.convert import measure, to_tensorrt
from tfpipe.convert.candidate import Candidate, Measured
from tfpipe.convert.conversion import Comparison, Conversion
from tfpipe.convert.reference import SavedModelRows
from tfpipe.convert.report import Findings
from tfpipe.convert.trained import RawSample
from tfpipe.core.bundle import Execution
from tfpipe.core.certificate import compare
from tfpipe.core.errors import GateError
from tfpipe.core.parity import BOUNDS, max_abs_diff
from tfpipe.core.signature import Array
from tfpipe.latency import BATCH_SIZES
from tfpipe.latency import measure as measure_speed
from tfpipe.ort import OnnxModel, open_session
from tfpipe.tuned import CACHE_VARIABLE, DEFAULT_CACHE_DIR, engines_dir
from tfpipe.verify.saved_model import load_saved_model


def note_fallback(findings: Findings, fallback: Mapping[str, Any] | None) -> None:
    """Record, in the report and in the manifest, where ONNX Runtime stands in for a backend.

    Args:
        findings: Changed in place.
        fallback: See `to_tensorrt.require`; None: there was none.
    """
    if fallback is None:
        return
    findings.measured_on["fallback"] = dict(fallback)
    lacks = " ".join(fallback["missing"])
    findings.notes.append(
        f"--backend {fallback['backend']} was asked for; ONNX Runtime stands in, as it lacks: {lacks}"
    )


def add_tftrt(
    saved_model: Path,
    precision: str,
    conversion: Conversion,
    comparison: Comparison,
    rows: Sequence[Array],
    calibration: Sequence[RawSample],
) -> SavedModelRows:
    """Write tensorrt/N beside saved_model/N, and compare it with Keras.

    Args:
        saved_model: Folder of the SavedModel, with its version number.
        precision: "fp32", "fp16" or "int8".
        conversion: Of the model.
        comparison: Takes the hop.
        rows: Of the compared samples.
        calibration: Raw samples that set the ranges of INT8.

    Returns:
        What answers in its place.

    Raises:
        ConversionError: TF-TRT failed.
        GateError: It answers otherwise than Keras.
    """
    target = saved_model.parents[1] / to_tensorrt.FOLDER / saved_model.name
    size = max(BATCH_SIZES)
    to_tensorrt.convert_saved_model(
        saved_model,
        target,
        precision=precision,
        batches=to_tensorrt.batches_of(rows, conversion.batch, size),
        calibration=to_tensorrt.calibration_batches(conversion.rows(calibration), conversion.batch, size),
    )
    converted = SavedModelRows(load_saved_model(target))
    answers = [_answer(converted, conversion, row) for row in rows]
    title = f"file -> rows -> {to_tensorrt.FOLDER}/ (TF-TRT, {precision})"
    comparison.note(compare("tftrt", title, answers, comparison.probabilities, BOUNDS.get(precision)))
    return converted


def check_score(scores: measure.Scores | None, name: str, max_metric_drop: float) -> None:
    """Have what a backend made face the gate.

    Raises:
        GateError: It scores too far below fp32.
    """
    if scores is None:
        return
    drop = round(scores.headline("fp32") - scores.headline(name), 12)
    # `not <=` rather than `>`: a NaN must miss.
    if not drop <= max_metric_drop:
        raise GateError(
            f"{name}: {scores.task.headline}: expected at most {max_metric_drop:.2%} below fp32's "
            f"{scores.headline('fp32'):.2%}, received {scores.headline(name):.2%}. Try --precision fp16."
        )


def open_engine(folder: Path, candidate: Candidate) -> OnnxModel:
    """A candidate on ONNX Runtime's TensorRT provider; its engine is kept in the service's cache folder.

    Args:
        folder: With the candidate's file.
        candidate: Half precisions are computed in float16 where INT8 does not apply.

    Raises:
        ConfigError: TensorRT takes none of its operators.
        BundleError: TensorRT cannot build an engine of it.
    """
    return open_session(
        folder / candidate.file,
        provider="tensorrt",
        arithmetic="float32" if candidate.precision == "fp32" else "float16",
        disabled_optimizers=candidate.recipe.get("disabled_optimizers", ()),
        engines_dir=engines_dir(Path(os.environ.get(CACHE_VARIABLE) or DEFAULT_CACHE_DIR)),
    )


def measure_engine(
    engine: OnnxModel,
    variant: Measured,
    conversion: Conversion,
    golden: Sequence[tuple[Array, Array]],
    scores: measure.Scores | None,
) -> Measured:
    """A variant's figures by a provider of a GPU.

    Args:
        engine: See `open_engine`.
        variant: As it was measured on the CPU.
        conversion: Of the model.
        golden: Rows with Keras's probabilities.
        scores: Of the engine, under its provider's name; None where there are no validation data.
    """
    rows = [row for row, _ in golden]
    apart = measure.neighbours_difference(engine, conversion, rows)
    farthest = max(max_abs_diff(_answer(engine, conversion, row), expected) for row, expected in golden)
    name = engine.input_names[0]
    batches = {size: {name: conversion.batch([rows[i % len(rows)] for i in range(size)])} for size in BATCH_SIZES}
    speed = measure_speed(engine, batches)
    execution = Execution(
        variant=variant.execution.variant,
        provider=engine.provider,
        arithmetic=engine.arithmetic,
        golden_max_abs_diff=farthest,
        batch_invariant=measure.is_batch_invariant(apart),
        metrics={} if scores is None else scores.metrics(engine.provider),
        latency_ms=speed.latency_ms,
        rows_per_second=speed.rows_per_second,
    )
    figures = replace(
        variant.figures,
        score=None if scores is None else scores.headline(engine.provider),
        recalls={} if scores is None else scores.recalls(engine.provider),
        neighbours=apart,
        p50_ms=speed.latency_ms["1"]["p50"],
        p95_ms=speed.latency_ms["1"]["p95"],
    )
    return Measured(variant.variant, execution, figures, apart)


def _answer(model: measure.Answers, conversion: Conversion, row: Array) -> Array:
    return conversion.cut(model.run({"input": conversion.batch([row])})["probabilities"], [row])[0]
