"""A model that was trained elsewhere -> bundle."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import keras

from tfpipe.convert import foreign, keras_files, report
from tfpipe.convert.asked import Asked, ConversionResult
from tfpipe.convert.building import write_bundle
from tfpipe.convert.foreign_settings import ForeignConfig, read_foreign_config
from tfpipe.convert.phases import phase
from tfpipe.convert.staging import held, measured_on, stage
from tfpipe.convert.tensor_function import TensorFunction, of_keras, of_saved_model
from tfpipe.convert.tensors import TensorConversion
from tfpipe.core.bundle import open_bundle
from tfpipe.core.errors import ConfigError
from tfpipe.inference.tensors import TENSOR_TASK
from tfpipe.provenance import library_versions

logger = logging.getLogger(__name__)


def convert_foreign(
    path: Path,
    asked: Asked,
    *,
    is_default: bool,
    output: str | Path | None,
    config: str | Path | None,
    overrides: Sequence[str],
    allow_code: bool,
    imports: Sequence[str],
) -> ConversionResult:
    """Convert a model file, or the folder of a SavedModel; the bundle is attached to no registered version.

    Args:
        path: See `foreign_settings.is_foreign`.
        asked: Precision, and whether missed limits are overruled.
        is_default: Whether nobody said the precision: then it is fp32 where nothing sets INT8 ranges.
        output: The bundle's folder; None: bundles/NAME.
        config: YAML file; see `foreign_settings`.
        overrides: Like "preprocessing.normalization=raw".
        allow_code: See `keras_files.read_keras_file`.
        imports: See `keras_files.read_keras_file`.

    Raises:
        ConfigError: No model, or something has to be said that is not found inside it.
        DataError: Data that cannot be read, or INT8 without any to set ranges.
        ConversionError: The model holds something that cannot be converted.
        GateError: Accuracy, size or parity was missed.
    """
    said = read_foreign_config(config, overrides)
    if is_default and not said.has_calibration:
        # Nothing sets INT8 ranges; it is refused only where it was asked for.
        asked = replace(asked, precision="fp32")
    name = foreign.model_name(path)
    target = Path(output) if output is not None else Path("bundles") / name
    read = partial(foreign.read_model, path, said, allow_code=allow_code, imports=imports)
    with held(target):
        _write(path, name, asked, said, target, read)
        bundle = open_bundle(target)
    logger.info("bundle: %s (%s)", target, bundle.short_id)
    return ConversionResult(bundle, None, is_champion=False, tracking_uri="")


def _write(
    path: Path, name: str, asked: Asked, said: ForeignConfig, target: Path, read: Callable[[], keras.Model]
) -> None:
    """The bundle of an image classifier, or of named tensors."""
    with phase("model"):
        model = None if path.is_dir() else read()
    logger.info("converting %s to %s", name, asked.precision)
    if model is not None and foreign.task_of(model, said) != TENSOR_TASK:
        write_bundle(foreign.open_classifier(path, model, said), asked, name, target)
        return
    if asked.search is not None:
        raise ConfigError(
            "--search: expected a model with a score to search by, received one of named tensors. Leave it out; "
            "`tfpipe tune` finds the fastest way to run its bundle."
        )
    findings = report.Findings(name, asked.precision, said.conversion, measured_on=measured_on())
    function = of_saved_model(path, said.signature) if model is None else _function(model, findings)
    conversion = TensorConversion(name, function, said.conversion, findings)
    training = {"config": said.model_dump(mode="json"), "library_versions": library_versions()}
    stage(partial(conversion.build, force=asked.force, training=training), findings, target)


def _function(model: keras.Model, findings: report.Findings) -> TensorFunction:
    float32, policy = keras_files.in_float32(model)
    if policy != "float32":
        findings.notes.append(f"Trained under {policy}; rebuilt in float32 with the same weights.")
    return of_keras(float32)
