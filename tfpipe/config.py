"""How the settings of a run are read: one YAML file, then key=value overrides, all problems told at once."""

import difflib
import io
import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError

from tfpipe.combinations import COMBINATIONS
from tfpipe.core import atomic
from tfpipe.core.errors import ConfigError
from tfpipe.settings import Config

# What a run begins from where no file is given, by its task.
DEFAULT_CONFIGS = {
    "image_classification": "image_classification_digits.yaml",
    "text_classification": "text_classification_messages.yaml",
    "token_classification": "token_classification_conll.yaml",
}
COMMAND_LINE = "command line"
# The keys that it is about, and a sentence.
Problem = tuple[Sequence[str], str]
_UNICODE_BREAKS = re.compile("[\x85\u2028\u2029]")


def load_config(path: str | Path | None = None, overrides: Sequence[str] = ()) -> Config:
    """Read one YAML file, apply key=value overrides, resolve interpolations and validate.

    Args:
        path: YAML file; None means what comes with tfpipe for the task of the overrides, else the digits classifier.
        overrides: Like "training.epochs=3"; values are read as YAML.

    Raises:
        ConfigError: Lists every unknown key, wrong type and impossible combination at once.
    """
    where = str(path or _default_config_path(overrides).name)
    return parse_config(read_values(path, overrides), where=where, overrides=overrides)


def read_values(path: str | Path | None, overrides: Sequence[str], *, resolve: bool = True) -> dict[str, Any]:
    """The raw values of a YAML file with overrides applied, before validation.

    Raises:
        ConfigError: The file is missing or not YAML, an override is not key=value, or an interpolation fails.
    """
    file = Path(path) if path is not None else _default_config_path(overrides)
    try:
        base = OmegaConf.load(file)
    except FileNotFoundError:
        raise ConfigError(
            f"--config: expected a YAML file, found none at {str(file)!r}.{_nearest_file(file)}"
        ) from None
    except (yaml.YAMLError, OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: expected YAML; {' '.join(str(error).split())}.") from error
    if not OmegaConf.is_dict(base):
        raise ConfigError(f"{file}: expected a YAML mapping of keys to values, received something else.")
    return override_values(base, overrides, where=str(file), resolve=resolve)


def override_values(base: Any, overrides: Sequence[str], *, where: str, resolve: bool = True) -> dict[str, Any]:
    """Raw values with overrides applied, before validation.

    Args:
        base: A mapping of keys to values; not changed.
        overrides: Each key=value.
        where: What `base` is from, for messages.
        resolve: Whether interpolations are replaced by what they mean.

    Raises:
        ConfigError: An override is not key=value, or an interpolation fails.
    """
    merged = OmegaConf.create(base)
    for override in overrides:
        _apply(override, merged)
    try:
        values = OmegaConf.to_container(merged, resolve=resolve)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{where}: {str(error).splitlines()[0]}.") from error
    return values  # type: ignore[return-value]  # to_container of a DictConfig is a dict


def parse_config(values: dict[str, Any], *, where: str, overrides: Sequence[str] = ()) -> Config:
    """Validate raw values; see `load_config`.

    Args:
        values: Overrides applied.
        where: What the values are from, for messages.
        overrides: Each key=value of the command line, on which problems of these keys are blamed.
    """
    try:
        config = Config.model_validate(values)
        problems: list[Problem] = []
    except ValidationError as error:
        problems = described_problems(error, Config)
        # The combinations of what is left are still worth telling: refused values give way to their defaults.
        config = Config.model_validate(_without(values, error))
    refused = [key for keys, _ in problems for key in keys]
    problems += [
        (keys, f"{' and '.join(keys)}: expected that {expected}.")
        for keys, impossible, expected in COMBINATIONS
        if not any(_touches(key, refused) for key in keys) and impossible(config)
    ]
    if problems:
        raise refusal(problems, where=where, overrides=overrides)
    return config


def refusal(problems: Sequence[Problem], *, where: str, overrides: Sequence[str] = ()) -> ConfigError:
    """One error that lists problems, each under what it is from: the command line or a file.

    Args:
        problems: At least one.
        where: The file.
        overrides: Each key=value of the command line.
    """
    given = [override.partition("=")[0] for override in overrides]
    listed: dict[str, list[str]] = {}
    for keys, sentence in problems:
        place = COMMAND_LINE if any(_touches(key, given) for key in keys) else where
        listed.setdefault(place, []).append(f"  {sentence}")
    return ConfigError(
        "\n".join(
            "\n".join([f"{place}: {len(sentences)} problem(s)", *sentences]) for place, sentences in listed.items()
        )
    )


def to_yaml(config: Config) -> str:
    """The resolved configuration as YAML; `load_config` reads it back to an equal one."""
    return yaml_text(config.model_dump(mode="json"), sort_keys=False)


def yaml_text(value: Any, **options: Any) -> str:
    """A value as YAML that reads back to an equal one, by `load_config` too, in readable Unicode where that holds.

    Args:
        value: Of plain types.
        options: As `yaml.dump` takes them.
    """
    text: str = yaml.dump(value, Dumper=_Dumper, allow_unicode=True, **options)
    if _UNICODE_BREAKS.search(text):
        # Unicode's own line breaks, written plainly, come back as blanks or line feeds.
        text = yaml.dump(value, Dumper=_Dumper, **options)
    return text


class _Dumper(yaml.SafeDumper):
    """Quotes texts that OmegaConf takes for numbers, as YAML 1.2 does and PyYAML does not: 1e-3."""


_Dumper.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?([0-9][0-9_]*(\.[0-9_]*)?|\.[0-9_]+)[eE][-+]?[0-9]+"),
    list("-+.0123456789"),
)


def save_config(config: Config, path: Path) -> None:
    """Write the resolved configuration as YAML, atomically."""
    atomic.write_file(path, to_yaml(config))


def flatten(config: Config) -> dict[str, Any]:
    """Every leaf by its full name, e.g. {"training.epochs": 10}."""
    return dict(_leaves(config.model_dump(mode="json")))


def documented_keys() -> str:
    """One line a key: name, type, default, meaning. What --help prints."""
    out = io.StringIO()
    for name, kind, default, description in _fields(Config):
        out.write(f"  {name}: {kind} = {default}\n      {description}\n")
    return out.getvalue()


def _apply(override: str, base: Any) -> None:
    key, separator, word = override.partition("=")
    if not separator or not key:
        raise ConfigError(f"expected key=value, received {override!r}. Example: training.epochs=3.")
    try:
        # OmegaConf's reader, not yaml.safe_load: there 1e-3 is a string.
        value = OmegaConf.to_container(OmegaConf.create(f"value: {word}"), resolve=False)["value"]  # type: ignore[index,call-overload]
        # It replaces what the file has, mappings too: tracking.min_metrics={} clears them.
        OmegaConf.update(base, key, value, merge=False)
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise ConfigError(f"override {override!r}: expected a YAML value; {' '.join(str(error).split())}.") from error


def _fields(section: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    for name, field in section.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _fields(kind, f"{prefix}{name}.")
        else:
            default = "(required)" if field.is_required() else _yaml_word(field.default)
            yield f"{prefix}{name}", _type_name(kind), default, field.description or ""


def _type_name(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " | ".join(str(choice) for choice in get_args(kind))
    if get_origin(kind) is Annotated:
        return _type_name(get_args(kind)[0])
    if get_origin(kind) is tuple:
        return "[" + ", ".join("..." if k is Ellipsis else _type_name(k) for k in get_args(kind)) + "]"
    if get_origin(kind) is dict:
        key, value = get_args(kind)
        return f"{{{_type_name(key)}: {_type_name(value)}}}"
    if get_args(kind):
        return " | ".join(_type_name(k) for k in get_args(kind))
    return "null" if kind is type(None) else getattr(kind, "__name__", str(kind))


def _yaml_word(value: Any) -> str:
    plain = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(plain, default_flow_style=True).replace("\n...", "").strip()


def _leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        # These are values of their own, not sections.
        if isinstance(value, dict) and key not in ("tags", "min_metrics", "class_weights"):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def described_problems(error: ValidationError, section: type[BaseModel]) -> list[Problem]:
    """Each problem that a validation found, with the nearest key for an unknown one.

    Args:
        error: Of `section.model_validate`.
        section: What was validated.
    """
    return [([_key_of(entry)], _describe(entry, section)) for entry in error.errors()]


def _key_of(entry: Any) -> str:
    return ".".join(str(part) for part in entry["loc"])


def _describe(entry: Any, section: type[BaseModel]) -> str:
    key = _key_of(entry)
    if entry["type"] == "extra_forbidden":
        return f"{key}: unknown key. {_nearest_key(key, section)}"
    if entry["type"] == "missing":
        return f"{key}: expected a value, received none."
    if entry["type"] in ("too_long", "too_short"):
        context = entry["ctx"]
        length = context.get("max_length", context.get("min_length"))
        return f"{key}: expected {length} values, received {entry['input']!r}."
    expected = entry["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    expected = expected.replace("a valid dictionary or instance of", "the keys of section")
    expected = expected.replace("a valid tuple", "a list in brackets")
    return f"{key}: expected {expected}, received {entry['input']!r}."


def _nearest_key(key: str, section: type[BaseModel]) -> str:
    known = [name for name, *_ in _fields(section)]
    sections = sorted({name.rpartition(".")[0] for name in known} - {""})
    close = difflib.get_close_matches(key, known + sections, n=1, cutoff=0.6)
    if not close:
        # The right word in the wrong section.
        close = [name for name in known if name.rpartition(".")[2] == key.rpartition(".")[2]][:1]
    return f"Did you mean {close[0]!r}?" if close else "`--help` lists every key."


def _nearest_file(file: Path) -> str:
    candidates = [str(path) for path in file.parent.glob("*.yaml")] if file.parent.is_dir() else []
    close = difflib.get_close_matches(str(file), candidates, n=1, cutoff=0.4)
    return f" Did you mean {close[0]!r}?" if close else ""


def _touches(key: str, refused: Sequence[str]) -> bool:
    return any(key == other or other.startswith(f"{key}.") or key.startswith(f"{other}.") for other in refused)


def _without(values: dict[str, Any], error: ValidationError) -> dict[str, Any]:
    """The values with every refused one taken out, so that its default stands in."""
    kept = OmegaConf.to_container(OmegaConf.create(values)) if isinstance(values, dict) else {}
    for entry in error.errors():
        _remove(kept, [str(part) for part in entry["loc"]])
    data = kept.setdefault("data", {})  # type: ignore[union-attr]
    if not isinstance(data.get("path"), str):
        data["path"] = "digits"
    return kept  # type: ignore[return-value]


def _remove(values: Any, loc: Sequence[str]) -> None:
    *parents, last = loc
    for part in parents:
        inner = values.get(part) if isinstance(values, dict) else None
        if not isinstance(inner, dict):
            # Inside a list or a wrong kind of value: the whole of it goes.
            if isinstance(values, dict):
                values.pop(part, None)
            return
        values = inner
    values.pop(last, None)


def _default_config_path(overrides: Sequence[str]) -> Path:
    tasks = [value.strip() for key, _, value in (entry.partition("=") for entry in overrides) if key == "task"]
    # An unknown task is told when the values are checked.
    name = DEFAULT_CONFIGS.get(tasks[-1] if tasks else "", DEFAULT_CONFIGS["image_classification"])
    here = Path("configs") / name
    return here if here.exists() else Path(__file__).parent / "configs" / name


def _register_resolvers() -> None:
    # As Hydra has it. One reading a process: two uses in a file agree.
    started = datetime.now()
    if not OmegaConf.has_resolver("now"):
        OmegaConf.register_resolver("now", lambda pattern: started.strftime(pattern))


_register_resolvers()
