"""Trained model -> bundle: ONNX at every precision, SavedModel, proof, report. Reads straight down."""

import logging
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from tfpipe.convert import half, measure, report, sealing
from tfpipe.convert.candidate import Candidate, measure_candidate
from tfpipe.convert.conversion import Conversion, Examples, open_conversion
from tfpipe.convert.foreign_settings import is_foreign
from tfpipe.convert.phases import phase
from tfpipe.convert.reference import KerasRows, SavedModelRows
from tfpipe.convert.settings import PRECISIONS, read_settings
from tfpipe.convert.trained import TrainedModel, fetch, open_trained
from tfpipe.core import atomic
from tfpipe.core.bundle import MANIFEST, Bundle, open_bundle
from tfpipe.core.errors import ConfigError, DataError, GateError
from tfpipe.core.parity import max_abs_diff
from tfpipe.data.sources import Source
from tfpipe.provenance import library_versions, processor
from tfpipe.registry import ModelVersion, Registry

logger = logging.getLogger(__name__)

# Files compared with Keras hop by hop; generated pictures of other sizes are added.
_COMPARED_SAMPLES = 32


@dataclass(frozen=True)
class Asked:
    """What a conversion is to give.

    Attributes:
        precision: "fp32", "fp16" or "int8": what is served by default, and judged.
        force: Whether a missed limit is recorded and overruled.
    """

    precision: str
    force: bool


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
    precision: str = "int8",
    output: str | Path | None = None,
    config: str | Path | None = None,
    overrides: Sequence[str] = (),
    registered_model: str | None = None,
    force: bool = False,
    allow_code: bool = False,
    imports: Sequence[str] = (),
) -> ConversionResult:
    """Convert a trained model, prove it against Keras, write its bundle, and attach that to the registered version.

    The bundle always holds fp32 and fp16; the precision asked for is added, is what the gate judges, and becomes the
    default variant.

    Example:
        result = convert("runs/digits-20250101-120000", precision="int8")
        print(result.bundle.manifest.variants["int8"].metrics["accuracy"])

    Args:
        model: "models:/NAME/VERSION", "models:/NAME@ALIAS", or the path of a model.keras, an output_dir or a
            checkpoint, or of a model that was trained elsewhere; None: the newest version of `registered_model`.
        precision: "fp32", "fp16" or "int8".
        output: The bundle's folder; None: bundles/NAME-VERSION, or bundles/NAME for a model from a path. An older
            bundle there is replaced.
        config: YAML file whose `conversion` section, `tracking.uri` and `tracking.registered_model` are used.
        overrides: Like "conversion.max_metric_drop=0.05" or "tracking.uri=..."; see `settings.OTHER_KEYS`.
        registered_model: Name in the registry where neither `model` nor the settings say it; None: the only one.
        force: Make the bundle although the gate's limits on score, classes, size and speed are missed; it says so.
        allow_code: Run the Python code that Lambda layers of a model trained elsewhere hold.
        imports: Modules with the classes of a model trained elsewhere.

    Raises:
        ConfigError: Wrong precision, settings, model path or output folder.
        RegistryError: No such model or version.
        DataError: Calibration samples or validation data are missing, changed or unreadable.
        ConversionError: The model holds something that cannot be converted.
        GateError: Accuracy, size or parity was missed; OUTPUT-report.md has the figures, and there is no bundle.
        TrackingError: The registry's server is away; the bundle lies in `output`.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"--precision: expected {', '.join(PRECISIONS)}, received {precision!r}.")
    asked = Asked(precision, force)
    if is_foreign(model):
        # Only here: it takes what is below of this module.
        from tfpipe.convert.foreign_conversion import convert_foreign

        return convert_foreign(Path(str(model)), asked, output, config, overrides, allow_code, imports)
    if allow_code or imports:
        raise ConfigError("--allow-code and --import: expected a model that was trained elsewhere; this one was not.")
    settings = read_settings(config, overrides)
    registry = Registry(settings.tracking_uri)
    with tempfile.TemporaryDirectory(prefix="tfpipe-convert-") as scratch:
        with phase("trained model"):
            name = settings.registered_model or registered_model
            folder, version = fetch(model, registry, name, Path(scratch) / "model")
            trained = open_trained(folder, version, settings.overrides)
        title = f"{trained.name} version {version.version}" if version else trained.name
        logger.info("converting %s to %s", title, precision)
        default = Path("bundles") / (f"{trained.name}-{version.version}" if version else trained.name)
        target = Path(output) if output is not None else default
        write_bundle(trained, asked, title, target)
    bundle = open_bundle(target)
    logger.info("bundle: %s (%s)", target, bundle.short_id)
    is_champion = registry.attach_bundle(version, target) if version else False
    return ConversionResult(bundle, version, is_champion, registry.uri)


def write_bundle(trained: TrainedModel, asked: Asked, title: str, target: Path) -> None:
    """Make the bundle of a trained model of a task of ours.

    Raises:
        ConfigError: See `stage`.
        DataError: See `convert`.
        ConversionError: See `convert`.
        GateError: See `convert`.
    """
    findings = report.Findings(title, asked.precision, trained.config.conversion)
    stage(lambda staging: _build(trained, asked, staging, findings), findings, target)


def stage(build: Callable[[Path], None], findings: report.Findings, target: Path) -> None:
    """Have a bundle built in a temporary folder and rename it into place; a failed gate leaves the report alone.

    Args:
        build: Writes everything into an empty folder.
        findings: Which it fills.
        target: The bundle's folder.

    Raises:
        ConfigError: `target` cannot be written, or holds something else than a bundle.
        GateError: A limit or bound was missed; names the report.
    """
    check_target(target)
    failed_report = target.with_name(f"{target.name}-report.md")
    try:
        with atomic.staged_folder(target, replace=True) as staging:
            build(staging)
    except GateError as error:
        findings.missed = findings.missed or [str(error)]
        atomic.write_file(failed_report, report.render(findings, usage=()))
        missed = " ".join(findings.missed)
        raise GateError(f"{findings.title}, {findings.precision}: {missed} The figures: {failed_report}") from error
    # What an earlier attempt at the same bundle left.
    failed_report.unlink(missing_ok=True)


def check_target(target: Path) -> None:
    """Refuse a place for a bundle that holds something else, or cannot be written.

    Raises:
        ConfigError: It does, or cannot.
    """
    if target.exists() and not (target / MANIFEST).is_file() and not _is_empty_folder(target):
        raise ConfigError(
            f"--output: expected a new folder or a bundle to replace, found other files at {str(target)!r}."
        )
    atomic.writable_folder(target.parent, where="--output")


def _build(trained: TrainedModel, asked: Asked, staging: Path, findings: report.Findings) -> None:
    config, conversion = trained.config.conversion, open_conversion(trained)
    findings.measured_on = measured_on()
    if trained.trained_policy != "float32":
        findings.notes.append(f"Trained under {trained.trained_policy}; rebuilt in float32 with the same weights.")

    if trained.foreign is not None:
        findings.notes += trained.foreign.notes

    # 1. What the score is measured on: known to be there before anything slow.
    validation = _open_validation(trained, asked.precision, findings)

    # 2. Preprocessing and the float32 graph, which answer as Keras does or are not taken.
    with phase("onnx fp32"):
        metadata = sealing.metadata(trained)
        conversion.write_preprocessing(staging, metadata)
        fp32 = Candidate("fp32", "fp32", conversion.network(metadata), {"opset": config.opset})
        comparison = conversion.compare(trained.samples[: max(_COMPARED_SAMPLES, config.golden_samples)])
        findings.hops = comparison.hops
        rows = comparison.check_preprocessing()
        answers = {"fp32": comparison.check_model("fp32", fp32.session(), rows)}

    # 3. Float16.
    with phase("onnx fp16"):
        graph, kept = half.to_float16(fp32.graph)
        recipe = {"weights": "float16", "float32": "inputs, outputs, Softmax"}
        fp16 = Candidate("fp16", "fp16", graph, recipe, kept)
        answers["fp16"] = comparison.check_model("fp16", fp16.session(), rows)
    candidates = {"fp32": fp32, "fp16": fp16}

    # 4. The task's score, and INT8 by the first recipe that keeps it.
    examples = None if validation is None else conversion.examples(validation)
    scores = None
    if examples is not None:
        keras: dict[str, measure.Answers] = {"keras": KerasRows(trained.parts, conversion.input)}
        scores = _score(keras | {name: one.session() for name, one in candidates.items()}, examples, trained)
    if asked.precision == "int8":
        candidates["int8"], scores = _quantize(trained, conversion, fp32.graph, examples, scores, findings)
        answers["int8"] = comparison.check_model("int8", candidates["int8"].session(), rows)

    # 5. SavedModel.
    with phase("SavedModel"):
        folder = staging / "saved_model" / (trained.version.version if trained.version else "1")
        conversion.write_saved_model(folder)
        comparison.check_saved_model(folder)
    if examples is not None and scores is not None:
        scores = scores.joined(_score({"saved_model": SavedModelRows(folder)}, examples, trained))

    # 6. Size, latency and the rest of each variant.
    golden = min(config.golden_samples, len(trained.samples), len(comparison.samples))
    with phase("latency"):
        for name, candidate in candidates.items():
            onnx.helper.set_model_props(candidate.graph, metadata | {"graph": "model", "precision": name})
            differences = zip(answers[name][:golden], comparison.probabilities[:golden], strict=True)
            farthest = max(max_abs_diff(answer, reference) for answer, reference in differences)
            findings.add(measure_candidate(candidate, conversion, rows, staging, config, scores, farthest))
    if scores is not None:
        findings.num_validation, findings.num_corrupt = scores.num_samples, scores.num_corrupt

    # 7. The gate.
    missed = findings.judge()
    if missed and not asked.force:
        findings.missed = missed
        raise GateError(" ".join(missed))
    findings.forced = missed

    # 8. Everything else that the bundle holds; the manifest last.
    sealing.seal_bundle(staging, trained, conversion, comparison, golden, scores, findings)


def _open_validation(trained: TrainedModel, precision: str, findings: report.Findings) -> Source | None:
    """The data to judge a precision by; fp32, which is what others are judged by, can do without."""
    try:
        validation = measure.open_validation(trained)
        if validation is not None:
            return validation
        if trained.foreign is not None:
            _check_calibration(trained, precision)
            return None
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


def _check_calibration(trained: TrainedModel, precision: str) -> None:
    if precision == "int8" and not trained.calibration:
        raise DataError(
            "calibration data: expected samples to set INT8 ranges, received none. Give data.validation_path=..., "
            "data.path=... or conversion.calibration_path=..., or convert with --precision fp16 or fp32."
        )


def _quantize(
    trained: TrainedModel,
    conversion: Conversion,
    fp32: onnx.ModelProto,
    examples: Examples | None,
    scores: measure.Scores | None,
    findings: report.Findings,
) -> tuple[Candidate, measure.Scores | None]:
    """The first recipe whose score the gate accepts, else the one that scores best; with the scores that include it.

    Where nothing can be scored, the first recipe.
    """
    config = trained.config.conversion
    rows = conversion.rows(trained.calibration)
    attempts = []
    for recipe in conversion.recipes(config):
        described = recipe.describe()
        with phase(f"onnx int8 ({described['calibration_method']}, {len(rows)} samples)"):
            graph = conversion.to_int8(fp32, rows, recipe)
        candidate = Candidate("int8", "int8", graph, described | {"calibration_samples": len(rows)})
        if examples is None or scores is None:
            return candidate, None
        both = scores.joined(_score({"int8": candidate.session()}, examples, trained))
        attempts.append((candidate, both))
        kept = ", depthwise convolutions kept in float32" if described.get("keep_depthwise") else ""
        findings.attempts.append(
            f"{described['calibration_method']}{kept}: {scores.task.headline} {both.headline('int8'):.2%}, "
            f"fp32 {both.headline('fp32'):.2%}"
        )
        if both.headline("fp32") - both.headline("int8") <= config.max_metric_drop:
            break
    return max(attempts, key=lambda attempt: attempt[1].headline("int8"))


def _score(models: Mapping[str, measure.Answers], examples: Examples, trained: TrainedModel) -> measure.Scores:
    with phase(f"score of {', '.join(models)} on {len(examples)} samples"):
        return measure.score(
            models, examples, trained.parts.task, max_corrupt_fraction=trained.config.data.max_corrupt_fraction
        )


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
