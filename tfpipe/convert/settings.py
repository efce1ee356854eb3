"""What the command line and a configuration file say about a conversion, checked before anything is fetched."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tfpipe.config import COMMAND_LINE, parse_config, read_values
from tfpipe.conversion_settings import ConversionConfig
from tfpipe.core.errors import ConfigError

PRECISIONS = ("fp32", "fp16", "int8")
MODEL_URI = "models:/"
# Beside `conversion.*`: which store and name, and where the validation data lie now.
OTHER_KEYS = ("tracking.uri", "tracking.registered_model", "data.path", "data.validation_path")


@dataclass(frozen=True)
class Settings:
    """What was asked for.

    Attributes:
        overrides: key=value for the configuration that the model was trained with.
        tracking_uri: The store; None: MLFLOW_TRACKING_URI, then sqlite:///mlflow.db.
        registered_model: Name in the registry; None: not said.
    """

    overrides: tuple[str, ...]
    tracking_uri: str | None
    registered_model: str | None


def read_settings(config: str | Path | None, overrides: Sequence[str]) -> Settings:
    """Put a configuration file and overrides together; overrides win.

    Args:
        config: YAML file of a run, of which the `conversion` section, `tracking.uri` and `tracking.registered_model`
            count; or None.
        overrides: Like "conversion.max_metric_drop=0.05", or one of `OTHER_KEYS`.

    Raises:
        ConfigError: Another key, an unknown one, or a value that cannot be used.
    """
    _check_keys(overrides)
    from_file = _from_file(config) if config is not None else []
    # The digits classifier stands in for the run that is not known yet: the values are what is checked.
    values = read_values(None, [*from_file, *overrides])
    given = {key for key, _, _ in (entry.partition("=") for entry in (*from_file, *overrides))}
    checked = parse_config(values, where=COMMAND_LINE)
    tracking = checked.tracking
    return Settings(
        overrides=tuple(entry for entry in (*from_file, *overrides) if not entry.startswith("tracking.")),
        tracking_uri=tracking.uri if "tracking.uri" in given else None,
        registered_model=tracking.registered_model if "tracking.registered_model" in given else None,
    )


def check_place(model: str | Path | None) -> None:
    """Refuse a path at which nothing lies.

    Args:
        model: As `tfpipe.convert.pipeline.convert` takes it.

    Raises:
        ConfigError: Nothing lies there.
    """
    if model is not None and not str(model).startswith(MODEL_URI) and not Path(model).exists():
        raise no_model_at(model)


def no_model_at(model: str | Path) -> ConfigError:
    """What is said of a path without a trained model."""
    return ConfigError(
        "--model: expected models:/NAME/VERSION, models:/NAME@ALIAS, a model.keras, an output_dir or a "
        f"checkpoint, found none at {str(model)!r}."
    )


def _check_keys(overrides: Sequence[str]) -> None:
    for entry in overrides:
        key, separator, _ = entry.partition("=")
        if not separator or not key:
            raise ConfigError(f"expected key=value, received {entry!r}. Example: conversion.max_metric_drop=0.05.")
        if not key.startswith("conversion.") and key not in OTHER_KEYS:
            known = ", ".join([*(f"conversion.{name}" for name in ConversionConfig.model_fields), *OTHER_KEYS])
            raise ConfigError(f"{key}: conversion takes {known}. The rest was settled by training.")


def _from_file(config: str | Path) -> list[str]:
    values = read_values(config, ())
    parse_config(values, where=str(config))
    tracking: dict[str, Any] = values.get("tracking") or {}
    entries = {f"conversion.{key}": value for key, value in (values.get("conversion") or {}).items()}
    entries |= {f"tracking.{key}": tracking[key] for key in ("uri", "registered_model") if tracking.get(key)}
    # JSON is YAML, which is what overrides are read as.
    return [f"{key}={json.dumps(value)}" for key, value in entries.items()]
