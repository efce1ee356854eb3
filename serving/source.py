"""From the setting MODEL to a checked bundle on disk and the name under which it answers."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tfpipe.core.bundle import MANIFEST, Bundle, open_bundle
from tfpipe.core.errors import BundleError, ConfigError

if TYPE_CHECKING:
    from tfpipe.registry import Registry

SCHEME = "models:/"
_NAMED = re.compile(r"(?:(?P<name>[A-Za-z0-9][\w.-]*)=)?(?P<model>.+)")


@dataclass(frozen=True)
class ServedBundle:
    """A checked bundle and the names under which requests may ask for it.

    Attributes:
        bundle: The bundle on disk.
        name: Registered name, else the manifest's.
        version: Registered version, None for a model that is not registered.
        aliases: Aliases of the version when it was resolved.
    """

    bundle: Bundle
    name: str
    version: str | None
    aliases: tuple[str, ...]


def open_default_registry() -> "Registry":
    """The registry that MLFLOW_TRACKING_URI names."""
    # MLflow takes seconds to import; a bundle's folder is served without it.
    from tfpipe.registry import Registry

    return Registry()


def fetch_bundles(
    models: str | None,
    *,
    registered_model: str | None,
    cache_dir: Path,
    open_registry: Callable[[], "Registry"] = open_default_registry,
) -> Iterator[ServedBundle]:
    """Find, download where needed, and check the bundles to serve, one after the other.

    Args:
        models: As `model` of `fetch_bundle`, or several with commas between them, each with `NAME=` before it where it
            is to answer under another name.
        registered_model: See `fetch_bundle`.
        cache_dir: See `fetch_bundle`.
        open_registry: See `fetch_bundle`.

    Raises:
        ConfigError: One version of one name twice, an empty entry, or a name that no path can hold.
        RegistryError: See `fetch_bundle`.
        BundleError: See `fetch_bundle`.
    """
    seen: set[tuple[str, str | None]] = set()
    for name, model in entries(models):
        served = fetch_bundle(
            model, registered_model=registered_model, cache_dir=cache_dir, open_registry=open_registry
        )
        if name:
            served = replace(served, name=name)
        if "/" in served.name:
            raise ConfigError(
                f"model: expected a name without '/', as paths of requests hold it, received {served.name!r}. Give it "
                f"another by NAME= before the model: {served.name.replace('/', '-')}={model}"
            )
        if (served.name, served.version) in seen:
            version = f"version {served.version}" if served.version else "without a version"
            raise ConfigError(f"model: expected each version once, received {served.name!r}, {version}, twice.")
        seen.add((served.name, served.version))
        yield served


def names_several(models: str | None) -> bool:
    """Whether the setting MODEL names several models."""
    return len(entries(models)) > 1


def entries(models: str | None) -> list[tuple[str, str | None]]:
    """The setting MODEL, taken apart: names, "" where none is given, and models, None for the default.

    Raises:
        ConfigError: An empty entry.
    """
    if models is None or Path(models).expanduser().is_dir():
        return [("", models)]
    entries = []
    for entry in models.split(","):
        match = _NAMED.fullmatch(entry.strip())
        if match is None:
            raise ConfigError(f"model: expected a model, or several with commas between them, received {models!r}.")
        entries.append((match["name"] or "", match["model"]))
    return entries


def fetch_bundle(
    model: str | None,
    *,
    registered_model: str | None,
    cache_dir: Path,
    open_registry: Callable[[], "Registry"] = open_default_registry,
) -> ServedBundle:
    """Find, download where needed, and check the bundle to serve.

    Args:
        model: A bundle's folder or a `models:/...` URI; None means the champion of the default name.
        registered_model: The default name; None means the only registered one.
        cache_dir: Where downloaded bundles are kept.
        open_registry: Called only where `model` is no folder.

    Raises:
        RegistryError: An unknown name, version or alias, or a version without a bundle.
        BundleError: No bundle in the folder, or one that is incomplete or changed.
    """
    if model is not None and not model.startswith(SCHEME):
        return _from_folder(Path(model).expanduser())
    registry = open_registry()
    uri = model or f"{SCHEME}{registry.default_name(registered_model)}@champion"
    version = registry.resolve(uri)
    bundle = open_bundle(registry.download_bundle(version, cache_dir.expanduser()))
    # The registry's name and number, not the manifest's: a version copied to another name keeps its bundle.
    return ServedBundle(bundle, version.name, version.version, version.aliases)


def _from_folder(folder: Path) -> ServedBundle:
    if not (folder / MANIFEST).is_file():
        raise BundleError(
            f"{folder}: expected a bundle (a folder with {MANIFEST}) or {SCHEME}NAME/VERSION, found no bundle. "
            f"Make one with `python -m tfpipe.convert --model MODEL --output {folder}`."
        )
    bundle = open_bundle(folder)
    return ServedBundle(bundle, bundle.manifest.model_name, bundle.manifest.model_version, ())
