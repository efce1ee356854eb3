"""Trained model -> bundle: ONNX at every precision, SavedModel, proof, report. Reads straight down."""

import contextlib
import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import onnx

from tfpipe.convert import foreign, half, measure, report
from tfpipe.convert.conversion import Conversion, Examples, Recipe, open_conversion
from tfpipe.convert.foreign_settings import is_foreign, read_foreign_config
from tfpipe.convert.gate import Figures, missed_limits
from tfpipe.convert.settings import PRECISIONS, read_settings
from tfpipe.convert.trained import TrainedModel, fetch, open_trained
from tfpipe.convert.weights import list_weights, weight_bytes
from tfpipe.core import atomic
from tfpipe.core.bundle import MANIFEST, Bundle, Manifest, Variant, open_bundle, seal, write_golden
from tfpipe.core.errors import ConfigError, DataError, GateError
from tfpipe.core.parity import max_abs_diff
from tfpipe.core.signature import Array
from tfpipe.data.sources import Source
from tfpipe.ort import OnnxModel, open_session
from tfpipe.provenance import library_versions, processor
from tfpipe.registry import ModelVersion, Registry

logger = logging.getLogger(__name__)

# Files compared with Keras hop by hop; generated pictures of other sizes are added.
_COMPARED_SAMPLES = 32
_INVARIANCE_ROWS = 8


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
            checkpoint, or a model that was trained elsewhere; None: the newest version of `registered_model`.
        precision: "fp32", "fp16" or "int8".
        output: The bundle's folder; None: bundles/NAME-VERSION, or bundles/NAME for a model from a path. An older
            bundle there is replaced.
        config: YAML file whose `conversion` section, `tracking.uri` and `tracking.registered_model` are used.
        overrides: Like "conversion.max_metric_drop=0.05" or "tracking.uri=..."; see `settings.OTHER_KEYS`.
        registered_model: Name in the registry where neither `model` nor the settings say it; None: the only one.
        allow_code: Run the Python code that Lambda layers of a model file hold.
        imports: Modules with the classes of a model that was trained elsewhere.

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
    if is_foreign(model):
        return _convert_foreign(Path(str(model)), precision, output, config, overrides, allow_code, imports)
    settings = read_settings(config, overrides)
    registry = Registry(settings.tracking_uri)
    with tempfile.TemporaryDirectory(prefix="tfpipe-convert-") as scratch:
        with _phase("trained model"):
            name = settings.registered_model or registered_model
            folder, version = fetch(model, registry, name, Path(scratch) / "model")
            trained = open_trained(folder, version, settings.overrides)
        title = f"{trained.name} version {version.version}" if version else trained.name
        logger.info("converting %s to %s", title, precision)
        default = Path("bundles") / (f"{trained.name}-{version.version}" if version else trained.name)
        target = Path(output) if output is not None else default
        _write(trained, precision, title, target)
    bundle = open_bundle(target)
    logger.info("bundle: %s (%s)", target, bundle.short_id)
    is_champion = registry.attach_bundle(version, target) if version else False
    return ConversionResult(bundle, version, is_champion, registry.uri)


def _convert_foreign(
    path: Path,
    precision: str,
    output: str | Path | None,
    config: str | Path | None,
    overrides: Sequence[str],
    allow_code: bool,
    imports: Sequence[str],
) -> ConversionResult:
    """A model that was trained elsewhere: attached to no version."""
    said = read_foreign_config(config, overrides)
    target = Path(output) if output is not None else Path("bundles") / foreign.model_name(path)
    with _phase("model"):
        model = foreign.read_model(path, said, allow_code=allow_code, imports=imports)
    trained = foreign.open_classifier(path, model, said)
    logger.info("converting %s to %s", trained.name, precision)
    _write(trained, precision, trained.name, target)
    bundle = open_bundle(target)
    logger.info("bundle: %s (%s)", target, bundle.short_id)
    return ConversionResult(bundle, None, is_champion=False, tracking_uri="")


def _write(trained: TrainedModel, precision: str, title: str, target: Path) -> None:
    """Make the bundle in a temporary folder and rename it into place; a failed gate leaves the report alone."""
    if target.exists() and not (target / MANIFEST).is_file() and not _is_empty_folder(target):
        raise ConfigError(
            f"--output: expected a new folder or a bundle to replace, found other files at {str(target)!r}."
        )
    atomic.writable_folder(target.parent, where="--output")
    failed_report = target.with_name(f"{target.name}-report.md")
    findings = report.Findings(title, precision, trained.config.conversion.max_metric_drop)
    try:
        with atomic.staged_folder(target, replace=True) as staging:
            _build(trained, precision, staging, findings)
    except GateError as error:
        findings.missed = findings.missed or [str(error)]
        atomic.write_file(failed_report, report.render(findings, usage=()))
        raise GateError(f"{title}, {precision}: {' '.join(findings.missed)} The figures: {failed_report}") from error
    # What an earlier attempt at the same bundle left.
    failed_report.unlink(missing_ok=True)


def _build(trained: TrainedModel, precision: str, staging: Path, findings: report.Findings) -> None:
    config, conversion = trained.config.conversion, open_conversion(trained)
    findings.measured_on = measured_on()
    if trained.trained_policy != "float32":
        findings.notes.append(f"Trained under {trained.trained_policy}; rebuilt in float32 with the same weights.")

    if trained.foreign is not None:
        findings.notes += trained.foreign.notes

    # 1. What the score is measured on: known to be there before anything slow.
    validation = _open_validation(trained, precision, findings)

    # 2. Preprocessing and the float32 graph, which answer as Keras does or are not taken.
    with _phase("onnx fp32"):
        metadata = _metadata(trained)
        conversion.write_preprocessing(staging, metadata)
        graphs = {"fp32": conversion.network(metadata)}
        comparison = conversion.compare(trained.samples[: max(_COMPARED_SAMPLES, config.golden_samples)])
        findings.hops = comparison.hops
        rows = comparison.check_preprocessing()
        answers = {"fp32": comparison.check_model("fp32", _session(graphs["fp32"]), rows)}

    # 3. Float16.
    with _phase("onnx fp16"):
        graphs["fp16"], kept = half.to_float16(graphs["fp32"])
        answers["fp16"] = comparison.check_model("fp16", _session(graphs["fp16"]), rows)
    recipe: dict[str, dict[str, Any]] = {
        "fp32": {"opset": config.opset},
        "fp16": {"weights": "float16", "float32": "inputs, outputs, Softmax"},
    }

    # 4. The task's score, and INT8 by the first recipe that keeps it.
    examples = None if validation is None else conversion.examples(validation)
    scores = None if examples is None else _score(graphs, examples, trained)
    if precision == "int8":
        graphs["int8"], chosen, scores = _quantize(trained, conversion, graphs["fp32"], examples, scores, findings)
        recipe["int8"] = chosen.describe() | {"calibration_samples": len(trained.calibration)}
        answers["int8"] = comparison.check_model("int8", _session(graphs["int8"], recipe["int8"]), rows)

    # 5. SavedModel.
    with _phase("SavedModel"):
        number = trained.version.version if trained.version else "1"
        conversion.write_saved_model(staging / "saved_model" / number)
        comparison.check_saved_model(staging / "saved_model" / number)

    # 6. Size, latency and the rest of each variant.
    golden = min(config.golden_samples, len(trained.samples), len(comparison.samples))
    with _phase("latency"):
        for name, graph in graphs.items():
            onnx.helper.set_model_props(graph, metadata | {"graph": "model", "precision": name})
            _save(graph, staging / _model_file(name))
            session = _session(graph, recipe[name], threads=measure.LATENCY_THREADS)
            apart = measure.neighbours_difference(session, conversion, rows[:_INVARIANCE_ROWS])
            findings.figures[name] = _figures(name, graph, staging / _model_file(name), scores, apart)
            if not measure.is_batch_invariant(apart):
                findings.notes.append(
                    f"{name}: a row's answer depends on the rows beside it, here by up to {apart:.2g}."
                )
            findings.variants[name] = Variant(
                precision=name,
                file=_model_file(name),
                recipe=recipe[name],
                size_bytes=findings.figures[name].size_bytes,
                metrics=_metrics(name, scores),
                latency_ms=measure.latency_ms(session, conversion.batch, rows, config.latency_runs),
                batch_invariant=measure.is_batch_invariant(apart),
                neighbours_max_abs_diff=apart,
                golden_max_abs_diff=_farthest(answers[name][:golden], comparison.probabilities[:golden]),
                weights=list_weights(graph, name, kept if name == "fp16" else {}),
            )
    if scores is not None:
        findings.num_validation, findings.num_corrupt = scores.num_samples, scores.num_corrupt

    # 7. The gate.
    findings.missed = missed_limits(
        findings.figures[precision], findings.figures["fp32"], max_metric_drop=config.max_metric_drop
    )
    if findings.missed:
        raise GateError(" ".join(findings.missed))

    # 8. Everything else that the bundle holds; the manifest last.
    samples = zip(comparison.samples[:golden], comparison.probabilities[:golden], strict=True)
    write_golden(staging, [(sample.name, sample.content, answer) for sample, answer in samples])
    _complete(staging, trained, conversion, precision, findings)


def _farthest(answers: Sequence[Array], references: Sequence[Array]) -> float:
    return max(max_abs_diff(answer, reference) for answer, reference in zip(answers, references, strict=True))


def _complete(
    staging: Path, trained: TrainedModel, conversion: Conversion, precision: str, findings: report.Findings
) -> None:
    (staging / "preprocessing.json").write_text(conversion.settings(), encoding="utf-8")
    (staging / "report.md").write_text(report.render(findings, usage=_usage(trained, conversion)), encoding="utf-8")
    seal(staging, _manifest(trained, conversion, precision, findings))


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
            "calibration data: expected samples to set INT8 ranges, received none. Give "
            "conversion.calibration_path=... or data.validation_path=..., or convert with --precision fp16 or fp32."
        )


def _quantize(
    trained: TrainedModel,
    conversion: Conversion,
    fp32: onnx.ModelProto,
    examples: Examples | None,
    scores: measure.Scores | None,
    findings: report.Findings,
) -> tuple[onnx.ModelProto, Recipe, measure.Scores | None]:
    """The first recipe whose score the gate accepts, else the one that scores best; with the scores that include it.

    Where there are no scores, the first recipe.
    """
    config = trained.config.conversion
    rows = conversion.rows(trained.calibration)
    attempts = []
    for recipe in conversion.recipes(config):
        described = recipe.describe()
        with _phase(f"onnx int8 ({described['calibration_method']}, {len(rows)} samples)"):
            graph = conversion.to_int8(fp32, rows, recipe)
        if examples is None or scores is None:
            return graph, recipe, None
        both = scores.joined(_score({"int8": graph}, examples, trained, described))
        attempts.append((graph, recipe, both))
        kept = ", depthwise convolutions kept in float32" if described.get("keep_depthwise") else ""
        findings.attempts.append(
            f"{described['calibration_method']}{kept}: {scores.task.headline} {both.headline('int8'):.2%}, "
            f"fp32 {both.headline('fp32'):.2%}"
        )
        if both.headline("fp32") - both.headline("int8") <= config.max_metric_drop:
            break
    return max(attempts, key=lambda attempt: attempt[2].headline("int8"))


def _score(
    graphs: dict[str, onnx.ModelProto], examples: Examples, trained: TrainedModel, recipe: dict[str, Any] | None = None
) -> measure.Scores:
    with _phase(f"score of {', '.join(graphs)} on {len(examples)} samples"):
        sessions = {name: _session(graph, recipe) for name, graph in graphs.items()}
        return measure.score(
            sessions, examples, trained.parts.task, max_corrupt_fraction=trained.config.data.max_corrupt_fraction
        )


def _model_file(precision: str) -> str:
    return f"model.{precision}.onnx"


def _metrics(name: str, scores: measure.Scores | None) -> dict[str, float]:
    if scores is None:
        return {}
    return scores.metrics(name) | {"top1_agreement": scores.agreement(name)}


def _figures(name: str, graph: onnx.ModelProto, file: Path, scores: measure.Scores | None, apart: float) -> Figures:
    size = file.stat().st_size
    if scores is None:
        return Figures(name, size, weight_bytes(graph), None, neighbours=apart)
    return Figures(name, size, weight_bytes(graph), scores.headline(name), scores.task.headline, apart)


def _manifest(trained: TrainedModel, conversion: Conversion, precision: str, findings: report.Findings) -> Manifest:
    parts, card = trained.parts, trained.card
    return Manifest(
        model_name=trained.name,
        model_version=trained.version.version if trained.version else None,
        task=trained.config.task,
        labels=parts.labels,
        multi_label=trained.multi_label,
        inputs=(conversion.input,),
        outputs=(conversion.output,),
        preprocess_inputs=conversion.preprocess_inputs,
        variants=findings.variants,
        default_variant=precision,
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


def measured_on() -> dict[str, Any]:
    """The machine and the libraries that latency figures belong to."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "provider": "cpu",
        "threads": measure.LATENCY_THREADS,
        "library_versions": library_versions(),
    }


def _usage(trained: TrainedModel, conversion: Conversion) -> list[str]:
    model = trained.version.uri if trained.version else "THIS FOLDER"
    return [
        f"Serve it: `TFPIPE_SERVING_MODEL={model} python -m serving`; another variant with `TFPIPE_SERVING_PRECISION`.",
        f"TensorFlow Serving: `saved_model/`. {conversion.saved_model_limits}",
        conversion.files,
    ]


def _metadata(trained: TrainedModel) -> dict[str, str]:
    version = trained.version.version if trained.version else ""
    return {
        "task": trained.config.task,
        "labels": json.dumps(trained.parts.labels, ensure_ascii=False),
        "model_name": trained.name,
        "model_version": version,
        "run_id": trained.card.get("run_id") or "",
    }


def _session(
    graph: onnx.ModelProto, recipe: Mapping[str, Any] | None = None, *, threads: int | None = None
) -> OnnxModel:
    """A graph on the CPU as the service would open it."""
    disabled = (recipe or {}).get("disabled_optimizers", ())
    return open_session(graph.SerializeToString(), provider="cpu", threads=threads, disabled_optimizers=disabled)


def _save(model: onnx.ModelProto, path: Path) -> None:
    path.write_bytes(model.SerializeToString())


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


@contextlib.contextmanager
def _phase(what: str) -> Iterator[None]:
    started = time.monotonic()
    yield
    logger.info("%s: %.1f s", what, time.monotonic() - started)
