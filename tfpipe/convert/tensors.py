"""A model that is no task of ours -> a bundle of task `tensor`: named tensors in, named tensors out.

No labels, no score: each converted form is compared with the model's own answers to the same arrays, and nothing else.
"""

import logging
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tensorflow as tf

from tfpipe.convert import half, tensor_report
from tfpipe.convert.gate import Figures, missed_limits
from tfpipe.convert.quantize_tensors import RECIPE, tensors_to_int8
from tfpipe.convert.tensor_function import TensorFunction
from tfpipe.convert.tensor_samples import Sample, generated_samples, in_batches, read_tensor_samples
from tfpipe.convert.to_onnx import tensors_to_onnx
from tfpipe.convert.weights import list_weights, weight_bytes
from tfpipe.core import certificate
from tfpipe.core.bundle import Execution, Manifest, Variant, seal
from tfpipe.core.certificate import Certificate, Hop
from tfpipe.core.errors import ConversionError, DataError, GateError
from tfpipe.core.golden_tensors import GoldenTensors, scaled, tensor_bound, write_golden_tensors
from tfpipe.core.signature import Array
from tfpipe.export import load_saved_model
from tfpipe.ort import OnnxModel, open_session
from tfpipe.settings import ConversionConfig

logger = logging.getLogger(__name__)

_COMPARED_SAMPLES = 32
_BATCH = 8
_LATENCY_THREADS = 1
_WARM_UP_RUNS = 5

Outputs = Mapping[str, Array]


@dataclass
class TensorFindings:
    """What a conversion has found so far; the report of a failed one holds as much as there is.

    Attributes:
        name: Of the model.
        precision: Asked for.
        inputs: As the report shows them.
        outputs: As the report shows them.
        hops: Comparisons with the model's own answers.
        variants: Finished variants by precision.
        notes: Sentences on how it was converted.
        missed: Limits missed.
        measured_on: Machine and libraries.
    """

    name: str
    precision: str
    function: TensorFunction
    measured_on: dict[str, Any]
    hops: list[Hop] = field(default_factory=list)
    variants: dict[str, Variant] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    missed: list[str] = field(default_factory=list)


def build_tensor_bundle(
    function: TensorFunction, config: ConversionConfig, staging: Path, findings: TensorFindings, training: Mapping[str, Any]
) -> None:  # fmt: skip
    """Convert, compare and write everything that the bundle holds.

    Args:
        function: The model.
        config: How.
        staging: Empty folder.
        findings: Filled as they are found.
        training: Where the model comes from, for the manifest.

    Raises:
        ConversionError: An operation or type that cannot be converted.
        DataError: INT8 without calibration data, or data that do not fit.
        GateError: An answer beyond its bound.
    """
    # 1. Samples and the model's own answers to them.
    calibration = _calibration(function, config, findings)
    samples = _compared(calibration or generated_samples(function))
    references = [function.reference(sample) for sample in samples]
    _check_finite(references)

    # 2. Graphs and SavedModel, each compared as soon as it is there.
    metadata = {"task": "tensor", "model_name": findings.name}
    graphs = {"fp32": tensors_to_onnx(function, opset=config.opset, metadata=metadata)}
    recipes: dict[str, dict[str, Any]] = {"fp32": {"opset": config.opset}}
    answers = {"fp32": _prove(findings, "fp32", graphs["fp32"], samples, references)}
    _write_saved_model(function, staging / "saved_model" / "1", samples, references, findings)
    kept = _half(findings, graphs, recipes, answers, samples, references)
    if findings.precision == "int8":
        graphs["int8"] = tensors_to_int8(graphs["fp32"], calibration)
        recipes["int8"] = RECIPE | {"calibration_samples": len(calibration)}
        answers["int8"] = _prove(findings, "int8", graphs["int8"], samples, references)

    # 3. Sizes, latency, the gate.
    golden = range(min(config.golden_samples, len(samples)))
    batches = {"1": calibration[0] if calibration else samples[0]}
    batches |= {str(_BATCH): batch for batch in in_batches([batches["1"]] * _BATCH, _BATCH)}
    executions = {}
    for precision, graph in graphs.items():
        path = staging / f"model.{precision}.onnx"
        onnx.helper.set_model_props(graph, metadata | {"graph": "tensors", "precision": precision})
        path.write_bytes(graph.SerializeToString())
        session = _session(graph, threads=_LATENCY_THREADS)
        latency = {size: _latency_ms(session, batch, config.latency_runs) for size, batch in batches.items()}
        largest = _largest([answers[precision][i] for i in golden], [references[i] for i in golden])
        apart = _neighbours(session, samples)
        findings.variants[precision] = Variant(
            precision=precision,
            file=path.name,
            recipe=recipes[precision],
            size_bytes=path.stat().st_size,
            metrics={},
            latency_ms={size: figures["p50"] for size, figures in latency.items()},
            batch_invariant=apart <= _SAME,
            neighbours_max_abs_diff=apart,
            golden_max_abs_diff=largest,
            weights=list_weights(graph, precision, kept if precision == "fp16" else {}),
        )
        executions[precision] = Execution(
            precision, golden_max_abs_diff=largest, batch_invariant=apart <= _SAME, latency_ms=latency
        )
    _judge(findings, graphs, config)

    # 4. Everything else; the manifest last.
    write_golden_tensors(staging, [GoldenTensors(dict(samples[i]), dict(references[i])) for i in golden])
    now = datetime.now(UTC).isoformat(timespec="seconds")
    left_out = {"http": "the service is not running"}
    proof = Certificate(tuple(findings.hops), left_out, findings.measured_on, now)
    (staging / certificate.FILE).write_text(proof.to_json(), encoding="utf-8")
    (staging / "report.md").write_text(tensor_report.render(findings), encoding="utf-8")
    order = sorted(executions, key=lambda name: name != findings.precision)
    manifest = Manifest(
        model_name=findings.name,
        model_version=None,
        task="tensor",
        labels=(),
        inputs=function.inputs,
        outputs=function.outputs,
        preprocess_inputs=(),
        variants=findings.variants,
        default_variant=findings.precision,
        training=dict(training),
        measured_on=findings.measured_on,
        created=now,
        executions=tuple(executions[name] for name in order),
    )
    seal(staging, manifest)
