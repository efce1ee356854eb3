"""A model that is no task of ours -> a bundle of task `tensor`: named tensors in, named tensors out.

No labels, no score: each converted form is compared with the model's own answers to the same arrays, and nothing else.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from tfpipe.conversion_settings import ConversionConfig
from tfpipe.convert import measure, report
from tfpipe.convert.candidate import Candidate, Measured, measured, time_alone, write_candidate
from tfpipe.convert.islands import to_float16_within
from tfpipe.convert.passes import run_passes, standard_passes
from tfpipe.convert.quantize import to_int8
from tfpipe.convert.recipe import default_recipes
from tfpipe.convert.report_page import render_page
from tfpipe.convert.tensor_function import TensorFunction, save_function
from tfpipe.convert.tensor_samples import Sample, generated_samples, in_batches, read_tensor_samples
from tfpipe.convert.to_onnx import tensors_to_onnx
from tfpipe.convert.weight_only import open_environment, weight_only_variants
from tfpipe.core import certificate
from tfpipe.core.bundle import Manifest, seal
from tfpipe.core.certificate import Certificate
from tfpipe.core.errors import ConversionError, DataError, GateError
from tfpipe.core.golden_tensors import GoldenTensors, scaled, write_golden_tensors
from tfpipe.core.parity import BOUNDS, max_abs_diff
from tfpipe.core.signature import Array
from tfpipe.inference.tensors import TENSOR_TASK, tensor_hop
from tfpipe.ort import OnnxModel
from tfpipe.verify.tensors import saved_model_hop

_COMPARED_SAMPLES = 32
_BATCH = 8
# Of which every tensor inside the graph is looked at together.
_FEW = 2


class TensorConversion:
    """A model on its way into a bundle of task `tensor`.

    Args:
        name: Of the model.
        function: The model.
        config: How it is converted.
        findings: Filled as they are found; the report of a failed conversion holds as much as there is.
    """

    def __init__(
        self, name: str, function: TensorFunction, config: ConversionConfig, findings: report.Findings
    ) -> None:
        self._name, self._function, self._config, self._findings = name, function, config, findings
        self._hops: list[certificate.Hop] = []
        findings.hops = self._hops
        self._metadata = {"task": TENSOR_TASK, "model_name": name, "graph": "tensors"}
        self._calibration = self._read_calibration()
        some = self._calibration[:_COMPARED_SAMPLES]
        # Alone, and in batches.
        self._samples = [*some, *in_batches(some, _BATCH)] if some else generated_samples(function)
        self._references = [function.reference(sample) for sample in self._samples]
        self._check_references()

    def build(self, staging: Path, *, force: bool, training: Mapping[str, Any]) -> None:
        """Convert, compare, and write everything that the bundle holds.

        Args:
            staging: Empty folder.
            force: Whether missed limits are recorded and overruled.
            training: Where the model comes from, for the manifest.

        Raises:
            ConversionError: An operation or type that cannot be converted.
            GateError: An answer beyond its bound, or a limit missed.
        """
        opset = self._config.opset
        written = tensors_to_onnx(self._function, opset=opset, metadata=self._metadata)
        few = self._samples[:_FEW]
        fp32, self._findings.passes = run_passes(written, standard_passes(opset), inputs=few)
        candidates = [Candidate("fp32", "fp32", fp32, {"opset": opset})]
        answers = {"fp32": self._prove(candidates[0])}
        save_function(self._function, staging / "saved_model" / "1")
        self._note(saved_model_hop(staging / "saved_model" / "1", self._golden()))
        weight_only = weight_only_variants(open_environment(self._config), candidates[0], self._config)
        for candidate in (*self._lower(fp32), *weight_only):
            answers[candidate.name] = self._prove(candidate)
            candidates.append(candidate)
        for candidate in candidates:
            self._findings.add(self._measure(candidate, answers[candidate.name], staging))
        missed = self._findings.judge()
        if missed and not force:
            self._findings.missed = missed
            raise GateError(" ".join(missed))
        self._findings.forced = missed
        self._seal(staging, training)

    def _read_calibration(self) -> list[Sample]:
        config, notes = self._config, self._findings.notes
        notes.append("Accuracy was not checked: a model of named tensors has no labels. Answers were compared.")
        if config.calibration_path is not None:
            path = Path(config.calibration_path)
            return read_tensor_samples(path, self._function.inputs, config.calibration_samples)
        if self._findings.precision == "int8":
            raise DataError(
                "calibration data: expected samples to set INT8 ranges, received none. Give "
                "conversion.calibration_path=FILE.npz with an array of samples for each input "
                f"({', '.join(spec.name for spec in self._function.inputs)}), or convert with --precision fp16 or fp32."
            )
        notes.append("No samples were given: random arrays were compared, and travel as golden samples.")
        return []

    def _check_references(self) -> None:
        for reference in self._references:
            for name, answer in reference.items():
                if np.issubdtype(answer.dtype, np.floating) and not np.isfinite(answer).all():
                    raise ConversionError(
                        f"output {name!r}: expected finite answers of the model itself, received NaN or infinity. Give "
                        "arrays that it answers: conversion.calibration_path=FILE.npz."
                    )

    def _lower(self, fp32: onnx.ModelProto) -> list[Candidate]:
        half = to_float16_within(fp32, self._samples, BOUNDS["fp16"])
        described = {"weights": "float16", "float32": "inputs, outputs, Softmax", "islands": half.islands}
        candidates = [Candidate("fp16", "fp16", half.model, described, half.kept)]
        if self._findings.precision == "int8":
            # What goes into a product is rounded and nothing else: of a graph that nobody knows, the rest stays exact.
            recipe = default_recipes(self._config, "products")[0]
            graph = to_int8(fp32, self._calibration, recipe)
            described = recipe.describe() | {"calibration_samples": len(self._calibration)}
            candidates.append(Candidate("int8", "int8", graph, described))
        return candidates

    def _golden(self) -> list[GoldenTensors]:
        pairs = zip(self._samples, self._references, strict=True)
        return [GoldenTensors(dict(sample), dict(reference)) for sample, reference in pairs]

    def _prove(self, candidate: Candidate) -> list[dict[str, Array]]:
        session = candidate.session()
        answers = [session.run(sample) for sample in self._samples]
        title = f"tensors -> {candidate.file}"
        bound = BOUNDS.get(candidate.precision)
        is_exact = candidate.precision == "fp32"
        self._note(tensor_hop(candidate.name, title, answers, self._references, bound, is_exact=is_exact))
        return answers

    def _note(self, hop: certificate.Hop) -> None:
        self._hops.append(hop)
        if hop.problem:
            raise GateError(hop.problem)

    def _measure(self, candidate: Candidate, answers: Sequence[Mapping[str, Array]], staging: Path) -> Measured:
        write_candidate(candidate, staging, self._metadata)
        session = candidate.session(threads=measure.LATENCY_THREADS)
        one = self._samples[0] if not self._calibration else self._calibration[0]
        timed = {1: one}
        if self._function.has_batch:
            timed[_BATCH] = next(iter(in_batches([one] * _BATCH, _BATCH)))
        tried = time_alone(candidate, staging, timed, self._config.latency_runs)
        golden = self._config.golden_samples
        farthest = _farthest(answers[:golden], self._references[:golden])
        return measured(candidate, staging, tried, neighbours=self._neighbours(session), golden_max_abs_diff=farthest)

    def _neighbours(self, session: OnnxModel) -> float:
        """By how much answers to samples in a batch differ from those alone; 0 where nothing makes a batch."""
        if not self._function.has_batch:
            return 0.0
        alone = [sample for sample in self._samples if _is_single(sample)][:_BATCH]
        batches = in_batches(alone, len(alone)) if len(alone) > 1 else []
        if not batches:
            return 0.0
        together = session.run(batches[0])
        apart = [session.run(sample) for sample in alone]
        joined = {name: np.concatenate([answer[name] for answer in apart]) for name in together}
        return _farthest([together], [joined])

    def _seal(self, staging: Path, training: Mapping[str, Any]) -> None:
        findings, function = self._findings, self._function
        write_golden_tensors(staging, self._golden()[: self._config.golden_samples])
        now = datetime.now(UTC).isoformat(timespec="seconds")
        left_out = {"http": "models of named tensors have no file to send"}
        findings.certificate = Certificate(tuple(self._hops), left_out, findings.measured_on, now)
        (staging / certificate.FILE).write_text(findings.certificate.to_json(), encoding="utf-8")
        text = report.render(findings, usage=_usage(function))
        (staging / "report.md").write_text(text, encoding="utf-8")
        (staging / "report.html").write_text(render_page(findings, text), encoding="utf-8")
        manifest = Manifest(
            model_name=self._name,
            model_version=None,
            task=TENSOR_TASK,
            labels=(),
            inputs=function.inputs,
            outputs=function.outputs,
            preprocess_inputs=(),
            variants={name: one.variant for name, one in findings.measured.items()},
            default_variant=findings.precision,
            executions=findings.executions,
            forced=tuple(findings.forced),
            training=dict(training),
            measured_on=findings.measured_on,
            created=now,
        )
        seal(staging, manifest)


def _is_single(sample: Sample) -> bool:
    return all(len(array) == 1 for array in sample.values())


def _farthest(answers: Sequence[Mapping[str, Array]], references: Sequence[Mapping[str, Array]]) -> float:
    """Largest difference of floats, on the scale of `scaled`."""
    differences = [0.0]
    for answer, reference in zip(answers, references, strict=True):
        pairs = scaled(answer, reference)
        differences += [
            max_abs_diff(*pair) for name, pair in pairs.items() if np.issubdtype(reference[name].dtype, np.floating)
        ]
    return max(differences)


def _usage(function: TensorFunction) -> list[str]:
    def told(specs: Sequence[Any]) -> str:
        return "; ".join(f"`{spec.name}` {spec.dtype} ({', '.join(map(str, spec.shape))})" for spec in specs)

    return [
        f"Takes {told(function.inputs)}.",
        f"Gives {told(function.outputs)}.",
        "Ask it without TensorFlow: `tfpipe.inference.tensors.open_tensors(open_bundle(Path(FOLDER))).run({...})`.",
        "Serve it: `python -m serving --model FOLDER`, and ask it by these names over the Open Inference Protocol.",
        "TensorFlow Serving: `saved_model/`, signature `serving_default` with the same names.",
    ]
