"""Trained model -> bundle: ONNX at every precision, SavedModel, proof, report. Reads straight down."""

import logging
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from tfpipe.convert import backends, measure, report, sealing, sparsity, to_tensorrt
from tfpipe.convert.candidate import Candidate, measure_candidate
from tfpipe.convert.conversion import Comparison, Conversion, Examples, open_conversion
from tfpipe.convert.examine import RememberedExamples, Yardstick
from tfpipe.convert.islands import to_float16_within
from tfpipe.convert.passes import run_passes, standard_passes
from tfpipe.convert.phases import phase
from tfpipe.convert.reference import KerasRows, SavedModelRows
from tfpipe.convert.report_page import render_page
from tfpipe.convert.search import Budget
from tfpipe.convert.settings import PRECISIONS, read_settings
from tfpipe.convert.trained import TrainedModel, fetch, open_trained
from tfpipe.convert.variants import Found, Search, find_variants
from tfpipe.core import atomic
from tfpipe.core.bundle import MANIFEST, Bundle, open_bundle
from tfpipe.core.errors import ConfigError, DataError, GateError
from tfpipe.core.parity import BOUNDS, max_abs_diff
from tfpipe.core.signature import Array
from tfpipe.data.sources import Source
from tfpipe.provenance import library_versions, processor
from tfpipe.registry import ModelVersion, Registry

logger = logging.getLogger(__name__)

# Files compared with Keras hop by hop; generated pictures of other sizes are added.
_COMPARED_SAMPLES = 32
# Rows of which every tensor inside the graph is looked at together.
_FEW = 4
# So many of them are compared in every trial of a search, and beside each other.
_LEAST_ROWS = 8
# A trial's latency is timed for so long; without a search, which orders by it, just for the gate.
_LATENCY_S, _GLANCE_S = 2.0, 0.2


@dataclass(frozen=True)
class Asked:
    """What a conversion is to give.

    Attributes:
        precision: "fp32", "fp16" or "int8": what is served by default, and judged.
        force: Whether a missed limit is recorded and overruled.
        search: What to search for; None: no search.
        backend: What it is converted for: "onnx", "tftrt" or "tensorrt"; "onnx" after a fallback.
        fallback: What the backend asked for lacks; see `to_tensorrt.require`.
    """

    precision: str
    force: bool
    search: Search | None = None
    backend: str = "onnx"
    fallback: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class ConversionResult:
    """What a conversion gave.

    Attributes:
        bundle: The bundle, opened and checked; `bundle.manifest` holds every figure.
        version: The registered version it was attached to; None for a model from a path.
        is_champion: Whether that version is `champion` now; the first of its name with a bundle becomes it.
        tracking_uri: The store it is registered in.
    """

    bundle: Bundle
    version: ModelVersion | None
    is_champion: bool
    tracking_uri: str


def convert(
    model: str | Path | None = None,
    *,
    precision: str | None = None,
    output: str | Path | None = None,
    config: str | Path | None = None,
    overrides: Sequence[str] = (),
    registered_model: str | None = None,
    force: bool = False,
    search: Budget | None = None,
    backend: str = "onnx",
    allow_fallback: bool = False,
) -> ConversionResult:
    """Convert a trained model, prove it against Keras, write its bundle, and attach that to the registered version.

    The bundle always holds fp32 and fp16; the precision asked for is added, is what the gate judges, and becomes the
    default variant.

    Example:
        result = convert("runs/digits-20250101-120000", precision="int8")
        print(result.bundle.manifest.variants["int8"].metrics["accuracy"])

    Args:
        model: "models:/NAME/VERSION", "models:/NAME@ALIAS", or the path of a model.keras, an output_dir or a
            checkpoint; None: the newest version of `registered_model`.
        precision: "fp32", "fp16" or "int8"; None: "int8", and with a search whichever is fastest.
        output: The bundle's folder; None: bundles/NAME-VERSION, or bundles/NAME for a model from a path. An older
            bundle there is replaced.
        config: YAML file whose `conversion` section, `tracking.uri` and `tracking.registered_model` are used.
        overrides: Like "conversion.max_metric_drop=0.05" or "tracking.uri=..."; see `settings.OTHER_KEYS`.
        registered_model: Name in the registry where neither `model` nor the settings say it; None: the only one.
        force: Make the bundle although the gate's limits on score, classes, size and speed are missed; it says so.
        search: Find the fastest variant, and way to run it, that passes the gate on this machine; None: no search.
        backend: "onnx"; "tftrt", which adds a SavedModel converted by TF-TRT; "tensorrt", which has ONNX Runtime build
            an engine.
        allow_fallback: Go on with ONNX Runtime alone, and record it, where the backend cannot be used here.

    Raises:
        ConfigError: Wrong precision, settings, model path or output folder; a backend that lacks something.
        RegistryError: No such model or version.
        DataError: Calibration samples or validation data are missing, changed or unreadable.
        ConversionError: The model holds something that cannot be converted.
        GateError: Accuracy, size or parity was missed; OUTPUT-report.md has the figures, and there is no bundle.
        TrackingError: The registry's server is away; the bundle lies in `output`.
    """
    if precision not in (None, *PRECISIONS):
        raise ConfigError(f"--precision: expected {', '.join(PRECISIONS)}, received {precision!r}.")
    settings = read_settings(config, overrides)
    fallback = to_tensorrt.require(backend, allow_fallback=allow_fallback)
    registry = Registry(settings.tracking_uri)
    with tempfile.TemporaryDirectory(prefix="tfpipe-convert-") as scratch:
        with phase("trained model"):
            name = settings.registered_model or registered_model
            folder, version = fetch(model, registry, name, Path(scratch) / "model")
            trained = open_trained(folder, version, settings.overrides)
        title = f"{trained.name} version {version.version}" if version else trained.name
        asked = Asked(
            precision or "int8",
            force,
            Search(search, precision) if search else None,
            "onnx" if fallback else backend,
            fallback,
        )
        logger.info("converting %s to %s", title, asked.precision if asked.search is None else "the fastest variant")
        default = Path("bundles") / (f"{trained.name}-{version.version}" if version else trained.name)
        target = Path(output) if output is not None else default
        _write(trained, asked, title, target)
    bundle = open_bundle(target)
    logger.info("bundle: %s (%s)", target, bundle.short_id)
    is_champion = registry.attach_bundle(version, target) if version else False
    return ConversionResult(bundle, version, is_champion, registry.uri)


def _write(trained: TrainedModel, asked: Asked, title: str, target: Path) -> None:
    """Make the bundle in a temporary folder and rename it into place; a failed gate leaves the report alone."""
    if target.exists() and not (target / MANIFEST).is_file() and not _is_empty_folder(target):
        raise ConfigError(
            f"--output: expected a new folder or a bundle to replace, found other files at {str(target)!r}."
        )
    atomic.writable_folder(target.parent, where="--output")
    failed_report, failed_page = (target.with_name(f"{target.name}-report.{kind}") for kind in ("md", "html"))
    findings = report.Findings(title, asked.precision, trained.config.conversion)
    try:
        with atomic.staged_folder(target, replace=True) as staging:
            _build(trained, asked, staging, findings)
    except GateError as error:
        findings.missed = findings.missed or [str(error)]
        text = report.render(findings, usage=())
        atomic.write_file(failed_report, text)
        atomic.write_file(failed_page, render_page(findings, text))
        raise GateError(
            f"{title}, {asked.precision}: {' '.join(findings.missed)} The figures: {failed_report}"
        ) from error
    # What an earlier attempt at the same bundle left.
    for path in (failed_report, failed_page):
        path.unlink(missing_ok=True)


def _build(trained: TrainedModel, asked: Asked, staging: Path, findings: report.Findings) -> None:
    config, conversion = trained.config.conversion, open_conversion(trained)
    findings.measured_on = measured_on()
    if trained.trained_policy != "float32":
        findings.notes.append(f"Trained under {trained.trained_policy}; rebuilt in float32 with the same weights.")

    backends.note_fallback(findings, asked.fallback)

    # 1. What the score is measured on: known to be there before anything slow.
    validation = _open_validation(trained, asked.precision, findings)

    # 2. Preprocessing and the float32 graph, which answer as Keras does or are not taken.
    with phase("onnx fp32"):
        metadata = sealing.metadata(trained)
        conversion.write_preprocessing(staging, metadata)
        comparison = conversion.compare(trained.samples[: max(_COMPARED_SAMPLES, config.golden_samples)])
        findings.hops = comparison.hops
        rows = comparison.check_preprocessing()
        few = [{"input": conversion.batch(rows[:1])}, *_batches(conversion, rows)[:1]]
        graph, findings.passes = run_passes(conversion.network(metadata), standard_passes(config.opset), inputs=few)
        fp32 = Candidate("fp32", "fp32", graph, {"opset": config.opset})
        answers = {"fp32": comparison.check_model("fp32", fp32.session(), rows)}

    # 3. Float16.
    with phase("onnx fp16"):
        half = to_float16_within(fp32.graph, _batches(conversion, rows), BOUNDS["fp16"])
        recipe = {"weights": "float16", "float32": "inputs, outputs, Softmax", "islands": half.islands}
        fp16 = Candidate("fp16", "fp16", half.model, recipe, half.kept)
        answers["fp16"] = comparison.check_model("fp16", fp16.session(), rows)
    candidates = {"fp32": fp32, "fp16": fp16}

    # 4. The task's score; INT8, and with a search the fastest way to run any of them.
    golden = min(config.golden_samples, len(trained.samples), len(comparison.samples))
    examples = None if validation is None else RememberedExamples(conversion.examples(validation))
    keras: dict[str, measure.Answers] = {"keras": KerasRows(trained.parts, conversion.input)}
    sessions = {name: candidate.session() for name, candidate in candidates.items()}
    scores = _joined(None, keras | sessions, examples, trained)
    found = None
    if asked.precision == "int8" or asked.search is not None:
        yardstick = Yardstick(
            conversion,
            rows[: max(golden, _LEAST_ROWS)],
            comparison.probabilities[: max(golden, _LEAST_ROWS)],
            examples,
            trained.parts.task,
            trained.config.data.max_corrupt_fraction,
            latency_s=_GLANCE_S if asked.search is None else _LATENCY_S,
        )
        found = _find_variants(trained, asked, candidates, yardstick, findings)
        for name, candidate in found.int8.items():
            candidates[name] = candidate
            answers[name] = comparison.check_model(name, candidate.session(), rows)
            scores = _joined(scores, {name: candidate.session()}, examples, trained)

    # 5. SavedModel.
    with phase("SavedModel"):
        folder = staging / "saved_model" / (trained.version.version if trained.version else "1")
        conversion.write_saved_model(folder)
        comparison.check_saved_model(folder)
    if examples is not None:
        scores = _joined(scores, {"saved_model": SavedModelRows(folder)}, examples, trained)

    if asked.backend == "tftrt":
        scores = _add_tftrt(folder, asked, trained, conversion, comparison, rows, examples, scores)

    # 6. Size, latency and the rest of each variant.
    with phase("latency"):
        for name, candidate in candidates.items():
            properties = {"graph": "model", "precision": candidate.precision}
            onnx.helper.set_model_props(candidate.graph, metadata | properties)
            differences = zip(answers[name][:golden], comparison.probabilities[:golden], strict=True)
            farthest = max(max_abs_diff(answer, reference) for answer, reference in differences)
            findings.add(measure_candidate(candidate, conversion, rows, staging, config, scores, farthest))
    if asked.backend == "tensorrt":
        pairs = list(zip(rows, comparison.probabilities, strict=True))[:golden]
        _add_engine(staging, candidates[asked.precision], trained, conversion, pairs, examples, findings)
    if "pruning" in trained.card:
        findings.sections.append(sparsity.section(trained.card["pruning"], staging, findings.measured))
    if scores is not None:
        findings.num_validation, findings.num_corrupt = scores.num_samples, scores.num_corrupt

    # 7. The gate.
    missed = _missed(asked, found, findings)
    if missed and not asked.force:
        findings.missed = missed
        raise GateError(" ".join(missed))
    findings.forced = missed

    # 8. Everything else that the bundle holds; the manifest last.
    sealing.seal_bundle(staging, trained, conversion, comparison, golden, scores, findings)


def _batches(conversion: Conversion, rows: Sequence[Array]) -> list[dict[str, Array]]:
    """Inputs of the model graph, a few rows each."""
    return [{"input": conversion.batch(rows[start : start + _FEW])} for start in range(0, len(rows), _FEW)]


def _open_validation(trained: TrainedModel, precision: str, findings: report.Findings) -> Source | None:
    """The data to judge a precision by; fp32, which is what others are judged by, can do without."""
    try:
        validation = measure.open_validation(trained)
        if validation is not None:
            return validation
        raise DataError(
            "validation data: expected some to measure accuracy on, but the run has none. "
            "Give data.validation_path=..., or convert with --precision fp32."
        )
    except DataError as error:
        if precision != "fp32":
            raise
        logger.warning("no accuracy is measured: %s", error)
        findings.notes.append(f"No accuracy was measured: {error}")
        return None


def _find_variants(
    trained: TrainedModel,
    asked: Asked,
    candidates: Mapping[str, Candidate],
    yardstick: Yardstick,
    findings: report.Findings,
) -> Found:
    """INT8 by the recipes of the model's family, or whatever a search finds fastest."""
    config = trained.config.conversion
    count = min(config.calibration_samples, len(trained.samples))
    calibration = yardstick.conversion.rows(trained.samples[:count])
    graphs = {name: candidate.graph for name, candidate in candidates.items()}
    what = f"int8 ({count} samples)" if asked.search is None else "search"
    with phase(what):
        found = find_variants(graphs, calibration, yardstick, config, search=asked.search)
    findings.trials, findings.search_ended = found.trials, found.ended
    if found.default_variant is not None:
        findings.precision = found.default_variant
    return found


def _add_tftrt(
    saved_model: Path,
    asked: Asked,
    trained: TrainedModel,
    conversion: Conversion,
    comparison: Comparison,
    rows: Sequence[Array],
    examples: Examples | None,
    scores: measure.Scores | None,
) -> measure.Scores | None:
    """A SavedModel converted by TF-TRT; the scores, with its own."""
    config = trained.config.conversion
    with phase("TF-TRT"):
        calibration = trained.samples[: config.calibration_samples]
        tftrt = backends.add_tftrt(saved_model, asked.precision, conversion, comparison, rows, calibration)
    scores = _joined(scores, {"tftrt": tftrt}, examples, trained)
    if scores is not None:
        backends.check_score(scores, "tftrt", config.max_metric_drop)
    return scores


def _add_engine(
    folder: Path,
    candidate: Candidate,
    trained: TrainedModel,
    conversion: Conversion,
    golden: Sequence[tuple[Array, Array]],
    examples: Examples | None,
    findings: report.Findings,
) -> None:
    """What was asked for, run by ONNX Runtime's TensorRT provider."""
    with phase("TensorRT engine"):
        engine = backends.open_engine(folder, candidate)
        scores = _joined(None, {engine.provider: engine}, examples, trained)
        variant = findings.measured[candidate.name]
        findings.others.append(backends.measure_engine(engine, variant, conversion, golden, scores))


def _joined(
    scores: measure.Scores | None,
    models: Mapping[str, measure.Answers],
    examples: Examples | None,
    trained: TrainedModel,
) -> measure.Scores | None:
    """Scores and those of further forms; None where there are no validation data."""
    if examples is None:
        return None
    with phase(f"score of {', '.join(models)} on {len(examples)} samples"):
        further = measure.score(
            models, examples, trained.parts.task, max_corrupt_fraction=trained.config.data.max_corrupt_fraction
        )
    return further if scores is None else scores.joined(further)


def _missed(asked: Asked, found: Found | None, findings: report.Findings) -> list[str]:
    """Have every variant face the gate; what is to be served by default is judged as it is to be run."""
    missed = findings.judge()
    if asked.search is None or found is None or found.chosen is None:
        return missed
    findings.executions = found.with_others(findings.executions)
    return []


def measured_on() -> dict[str, Any]:
    """The machine and the libraries that latency figures belong to."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "provider": "cpu",
        "threads": measure.LATENCY_THREADS,
        "library_versions": library_versions(),
    }


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())
