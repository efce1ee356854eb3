"""Everything that a bundle holds beside its graphs: golden samples, certificate, report, and the manifest last."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from tfpipe.convert import measure, report
from tfpipe.convert.conversion import Comparison, Conversion
from tfpipe.convert.phases import phase
from tfpipe.convert.report_page import render_page
from tfpipe.convert.trained import TrainedModel
from tfpipe.core import certificate
from tfpipe.core.bundle import GENERATED, Bundle, Manifest, open_bundle, seal, write_differences, write_golden
from tfpipe.core.certificate import Certificate, Hop
from tfpipe.core.errors import GateError
from tfpipe.core.parity import max_abs_diff
from tfpipe.core.signature import Array
from tfpipe.targets.warmup import image_request, text_request, write_warmup
from tfpipe.verify.golden import GoldenSamples
from tfpipe.verify.http import http_hop, missing_service, running_service

# The hop whose metric a scored form stands for.
_SCORED_AS = {"keras": "keras", "saved_model": "saved_model.tensor"}


def seal_bundle(
    staging: Path,
    trained: TrainedModel,
    conversion: Conversion,
    comparison: Comparison,
    golden: int,
    answers: Mapping[str, Sequence[Array]],
    scores: measure.Scores | None,
    findings: report.Findings,
) -> None:
    """Complete a bundle whose graphs and SavedModel are written.

    Args:
        staging: Its folder.
        trained: The trained model.
        conversion: Of the model.
        comparison: With every hop up to here.
        golden: How many of the compared samples travel in the bundle.
        answers: Of the whole chain to the compared samples, by variant.
        scores: On the validation data, of Keras and of every form; None where there are none.
        findings: For the report, and what goes into the manifest.

    Raises:
        GateError: The service answers otherwise than Keras.
    """
    samples = comparison.samples[:golden]
    write_golden(
        staging,
        [(s.name, s.content, answer) for s, answer in zip(samples, comparison.probabilities[:golden], strict=True)],
        decoded=[sample.sample for sample in samples],
        rows=comparison.rows[:golden],
        row_scale=comparison.row_scale,
    )
    if comparison.generated:
        _write_generated(staging, comparison, answers)
    request_of = text_request if conversion.preprocess_inputs[0].dtype == "str" else image_request
    (saved_model,) = (staging / "saved_model").iterdir()
    write_warmup(saved_model, [request_of(s.content, r) for s, r in zip(samples, comparison.rows, strict=False)])
    (staging / "preprocessing.json").write_text(conversion.settings(), encoding="utf-8")
    manifest = _manifest(trained, conversion, findings)
    hops = _with_scores(comparison.hops, len(comparison.samples), scores)
    left_out: dict[str, str] = {}
    if reason := _no_http(trained):
        left_out["http"] = reason
    else:
        # Sealed for the while: the service takes nothing else.
        seal(staging, manifest)
        hops.append(_http_hop(open_bundle(staging)))
    findings.certificate = Certificate(
        tuple(hops), left_out, findings.measured_on, datetime.now(UTC).isoformat(timespec="seconds")
    )
    if broken := findings.certificate.broken:
        raise GateError(broken.problem)
    (staging / certificate.FILE).write_text(findings.certificate.to_json(), encoding="utf-8")
    text = report.render(findings, usage=_usage(trained, conversion))
    (staging / "report.md").write_text(text, encoding="utf-8")
    (staging / "report.html").write_text(render_page(findings, text), encoding="utf-8")
    seal(staging, manifest)


def _write_generated(staging: Path, comparison: Comparison, answers: Mapping[str, Sequence[Array]]) -> None:
    """Pictures of colours and sizes that the training files may not have; verification alone looks at them."""
    at = comparison.generated
    samples, expected = [comparison.samples[i] for i in at], [comparison.probabilities[i] for i in at]
    write_golden(
        staging,
        [(sample.name, sample.content, answer) for sample, answer in zip(samples, expected, strict=True)],
        decoded=[sample.sample for sample in samples],
        rows=[comparison.rows[i] for i in at],
        row_scale=comparison.row_scale,
        place=GENERATED,
    )
    farthest = {
        name: max(max_abs_diff(given[i], reference) for i, reference in zip(at, expected, strict=True))
        for name, given in answers.items()
    }
    write_differences(staging, farthest)


def metadata(trained: TrainedModel) -> dict[str, str]:
    """What every ONNX file says of where it comes from."""
    version = trained.version.version if trained.version else ""
    return {
        "task": trained.config.task,
        "labels": json.dumps(trained.parts.labels, ensure_ascii=False),
        "model_name": trained.name,
        "model_version": version,
        "run_id": trained.card.get("run_id") or "",
    }


def _no_http(trained: TrainedModel) -> str:
    return missing_service() if trained.config.conversion.http_hop else "conversion.http_hop=false"


def _http_hop(bundle: Bundle) -> Hop:
    with phase("answers of the service over HTTP"), running_service(bundle.folder, bundle.executions()[0]) as url:
        return http_hop(url, GoldenSamples(bundle))


def _with_scores(hops: Sequence[Hop], num_files: int, scores: measure.Scores | None) -> list[Hop]:
    reference = Hop("keras", "file -> Keras, the reference", "probabilities", num_files, 0.0, 0.0, agreement=1.0)
    if scores is None:
        return [reference, *hops]
    by_hop = {_SCORED_AS.get(name, name): scores.score(name) for name in scores.tallies}
    return [replace(hop, score=by_hop.get(hop.name)) for hop in (reference, *hops)]


def _manifest(trained: TrainedModel, conversion: Conversion, findings: report.Findings) -> Manifest:
    parts, card = trained.parts, trained.card
    return Manifest(
        model_name=trained.name,
        model_version=trained.version.version if trained.version else None,
        task=trained.config.task,
        labels=parts.labels,
        multi_label=trained.multi_label,
        inputs=(conversion.input,),
        outputs=conversion.outputs,
        preprocess_inputs=conversion.preprocess_inputs,
        variants={name: one.variant for name, one in findings.measured.items()},
        default_variant=findings.precision,
        executions=findings.executions,
        forced=tuple(findings.forced),
        training={
            "config": trained.config.model_dump(mode="json"),
            **{
                key: card.get(key)
                for key in ("run_id", "created", "metrics", "data_fingerprint", "git_commit", "library_versions")
            },
        },
        measured_on=findings.measured_on,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _usage(trained: TrainedModel, conversion: Conversion) -> list[str]:
    model = trained.version.uri if trained.version else "THIS_FOLDER"
    return [
        f"Serve it: `python -m serving --model {model}`; another variant with `--precision`.",
        "Measure every hop again, on any machine: `python -m tfpipe.verify THIS_FOLDER`.",
        f"TensorFlow Serving: `saved_model/`. {conversion.saved_model_limits}",
        conversion.files,
    ]
