"""Any trained model -> bundle: finds it, has its bundle built, and attaches that to the registered version."""

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tfpipe.convert import to_tensorrt
from tfpipe.convert.asked import Asked, ConversionResult
from tfpipe.convert.building import write_bundle
from tfpipe.convert.foreign_conversion import convert_foreign
from tfpipe.convert.foreign_settings import is_foreign
from tfpipe.convert.phases import phase
from tfpipe.convert.search import Budget
from tfpipe.convert.settings import MODEL_URI, PRECISIONS, Settings, read_settings
from tfpipe.convert.staging import check_target, held
from tfpipe.convert.trained import fetch, open_trained
from tfpipe.convert.variants import Search
from tfpipe.core.bundle import open_bundle
from tfpipe.core.errors import ConfigError, RegistryError
from tfpipe.registry import ModelVersion, Registry

logger = logging.getLogger(__name__)


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
    attach: bool = False,
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
        attach: Where `model` is a path: attach the bundle to the registered version that has this model. Where no
            version has it, a warning says so.
        allow_code: Run the Python code that Lambda layers of a model trained elsewhere hold.
        imports: Modules with the classes of a model trained elsewhere.

    Raises:
        ConfigError: Wrong precision, settings, model path or output folder, or one that another process is converting
            to; a backend that lacks something.
        RegistryError: No such model or version.
        DataError: Calibration samples or validation data are missing, changed or unreadable.
        ConversionError: The model holds something that cannot be converted.
        GateError: Accuracy, size or parity was missed; OUTPUT-report.md has the figures, and there is no bundle.
        TrackingError: The registry's server is away; the bundle lies in `output`.
    """
    if precision not in (None, *PRECISIONS):
        raise ConfigError(f"--precision: expected {', '.join(PRECISIONS)}, received {precision!r}.")
    if attach and (model is None or str(model).startswith(MODEL_URI) or is_foreign(model)):
        raise ConfigError(
            "--attach: expected --model to be the path of a model that was trained here. "
            "The bundle of a registered version is attached without it."
        )
    fallback = to_tensorrt.require(backend, allow_fallback=allow_fallback)
    asked = Asked(
        precision or "int8",
        force,
        Search(search, precision) if search else None,
        "onnx" if fallback else backend,
        fallback,
    )
    if is_foreign(model):
        return convert_foreign(
            Path(str(model)), asked, is_default=precision is None, output=output, config=config, overrides=overrides,
            allow_code=allow_code, imports=imports,
        )  # fmt: skip
    if allow_code or imports:
        raise ConfigError("--allow-code and --import: expected a model that was trained elsewhere; this one was not.")
    return _convert_own(model, asked, read_settings(config, overrides), registered_model, output, attach=attach)


def _convert_own(
    model: str | Path | None,
    asked: Asked,
    settings: Settings,
    registered_model: str | None,
    output: str | Path | None,
    *,
    attach: bool,
) -> ConversionResult:
    """What training here made; see `convert`."""
    registry = Registry(settings.tracking_uri)
    with tempfile.TemporaryDirectory(prefix="tfpipe-convert-") as scratch:
        with phase("trained model"):
            name = settings.registered_model or registered_model
            folder, version = fetch(model, registry, name, Path(scratch) / "model")
            if attach:
                version = _version_of(folder, registry)
            if output is not None:
                # Better known before the model is opened.
                check_target(Path(output))
            trained = open_trained(folder, version, settings.overrides)
        title = f"{trained.name} version {version.version}" if version else trained.name
        logger.info("converting %s to %s", title, asked.precision if asked.search is None else "the fastest variant")
        default = Path("bundles") / (f"{trained.name}-{version.version}" if version else trained.name)
        target = Path(output) if output is not None else default
        with held(target):
            write_bundle(trained, asked, title, target)
            bundle = open_bundle(target)
            logger.info("bundle: %s (%s)", target, bundle.short_id)
            is_champion = registry.attach_bundle(version, target) if version else False
    return ConversionResult(bundle, version, is_champion, registry.uri)


def _version_of(folder: Path, registry: Registry) -> ModelVersion | None:
    try:
        return registry.version_of(folder)
    except RegistryError as error:
        # The model may have come from another machine, without its store: the bundle is as good.
        logger.warning("--attach: %s The bundle is attached to no version.", error)
        return None
