"""From the setting MODEL to a checked bundle on disk and the name under which it answers."""

import difflib
import logging
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from serving.remembered import Resolved, recall, remember
from tfpipe.core import atomic
from tfpipe.core.bundle import MANIFEST, Bundle, open_bundle
from tfpipe.core.errors import BundleError, ConfigError, TrackingError
from tfpipe.tuned import CACHE_VARIABLE

if TYPE_CHECKING:
    from tfpipe.registry import Registry

logger = logging.getLogger(__name__)

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


def open_default_registry(wait_s: float) -> "Registry":
    """The registry that MLFLOW_TRACKING_URI names; while it is away, each question is asked again for so long."""
    # MLflow takes seconds to import; a bundle's folder is served without it.
    from tfpipe.registry import Registry

    return Registry(retry_s=wait_s)


def check_models(models: str | None, cache_dir: Path) -> None:
    """Refuse what can be known to be wrong before a bundle or the registry is looked at.

    Raises:
        ConfigError: An empty entry, or a cache folder that is needed and cannot be written.
        BundleError: No bundle in a folder.
    """
    for _, model in entries(models):
        if model is None or model.startswith(SCHEME):
            _check_cache(cache_dir)
        else:
            _check_folder(Path(model).expanduser())


def fetch_bundles(
    models: str | None,
    *,
    registered_model: str | None,
    cache_dir: Path,
    registry_wait_s: float = 30.0,
    open_registry: "Callable[[float], Registry]" = open_default_registry,
) -> Iterator[ServedBundle]:
    """Find, download where needed, and check the bundles to serve, one after the other.

    Args:
        models: As `model` of `fetch_bundle`, or several with commas between them, each with `NAME=` before it where it
            is to answer under another name.
        registered_model: See `fetch_bundle`.
        cache_dir: See `fetch_bundle`.
        registry_wait_s: See `fetch_bundle`.
        open_registry: See `fetch_bundle`.

    Raises:
        ConfigError: One version of one name twice, an empty entry, or a name that no path can hold; see `fetch_bundle`.
        RegistryError: See `fetch_bundle`.
        TrackingError: See `fetch_bundle`.
        BundleError: See `fetch_bundle`.
    """
    seen: set[tuple[str, str | None]] = set()
    for name, model in entries(models):
        served = fetch_bundle(
            model,
            registered_model=registered_model,
            cache_dir=cache_dir,
            registry_wait_s=registry_wait_s,
            open_registry=open_registry,
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
    if models is None or _is_folder(models):
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
    registry_wait_s: float = 30.0,
    open_registry: "Callable[[float], Registry]" = open_default_registry,
) -> ServedBundle:
    """Find, download where needed, and check the bundle to serve.

    Args:
        model: A bundle's folder or a `models:/...` URI; None means the champion of the default name.
        registered_model: The default name; None means the only registered one.
        cache_dir: Where downloaded bundles are kept, and what the registry said.
        registry_wait_s: How long to ask a registry that is away again. After it the bundle is served that it named
            last, where the cache has it.
        open_registry: Called with the wait, only where `model` is no folder.

    Raises:
        ConfigError: The cache folder cannot be written.
        RegistryError: An unknown name, version or alias, or a version without a bundle.
        TrackingError: The registry is away, and the cache has no bundle of this model.
        BundleError: No bundle in the folder, or one that is incomplete or changed.
    """
    if model is not None and not model.startswith(SCHEME):
        return _from_folder(Path(model).expanduser())
    cache_dir = cache_dir.expanduser()
    _check_cache(cache_dir)
    registry = open_registry(registry_wait_s)
    asked = f"{registry.uri} {model or f'{SCHEME}{registered_model or str()}@champion'}"
    try:
        uri = model or f"{SCHEME}{registry.default_name(registered_model)}@champion"
        version = registry.resolve(uri)
        bundle = open_bundle(registry.download_bundle(version, cache_dir))
    except TrackingError as error:
        return _from_cache(cache_dir, asked, error)
    remember(cache_dir, asked, Resolved(version.name, version.version, version.aliases, bundle.sha256))
    # The registry's name and number, not the manifest's: a version copied to another name keeps its bundle.
    return ServedBundle(bundle, version.name, version.version, version.aliases)


def _check_cache(cache_dir: Path) -> None:
    atomic.writable_folder(cache_dir.expanduser(), where=CACHE_VARIABLE)


def _from_cache(cache_dir: Path, asked: str, error: TrackingError) -> ServedBundle:
    kept = recall(cache_dir, asked)
    if kept is None:
        raise error
    bundle = open_bundle(cache_dir / kept.bundle_sha256)
    fields = {"name": kept.name, "version": kept.version, "bundle": kept.bundle_sha256[:12], "error": str(error)}
    logger.warning("served from the cache, as the registry is away", extra={"fields": fields})
    return ServedBundle(bundle, kept.name, kept.version, kept.aliases)


def _is_folder(models: str) -> bool:
    try:
        return Path(models).expanduser().is_dir()
    # A list that is longer than a path may be, or a working folder that is not ours to look into.
    except OSError:
        return False


def _from_folder(folder: Path) -> ServedBundle:
    _check_folder(folder)
    try:
        bundle = open_bundle(folder)
    except OSError as error:
        raise _unreadable(folder, error) from error
    return ServedBundle(bundle, bundle.manifest.model_name, bundle.manifest.model_version, ())


def _check_folder(folder: Path) -> None:
    try:
        has_manifest = (folder / MANIFEST).is_file()
    except OSError as error:
        raise _unreadable(folder, error) from error
    if not has_manifest:
        raise BundleError(
            f"{folder}: expected a bundle (a folder with {MANIFEST}) or {SCHEME}NAME/VERSION, found no bundle. "
            f"{_others(folder)}Make one with `python -m tfpipe.convert --model MODEL --output {folder}`."
        )


def _unreadable(folder: Path, error: OSError) -> BundleError:
    return BundleError(f"{error.filename or folder}: expected a bundle that can be read; {error.strerror}.")


def _others(folder: Path) -> str:
    """The bundles that stand in the folder, or else beside it, in a sentence."""
    for parent in (folder, folder.parent):
        found = sorted(str(manifest.parent) for manifest in parent.glob(f"*/{MANIFEST}"))
        if found:
            close = difflib.get_close_matches(str(folder), found, n=1)
            shown = ", ".join(found[:20]) + (", …" if len(found) > 20 else "")
            return f"There are {shown}. " + (f"Did you mean {close[0]}? " if close else "")
    return ""
