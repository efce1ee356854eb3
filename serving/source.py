"""From the setting MODEL to a checked bundle on disk and the name under which it answers."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tfpipe.core.bundle import MANIFEST, Bundle, open_bundle
from tfpipe.core.errors import BundleError

if TYPE_CHECKING:
    from tfpipe.registry import Registry

_SCHEME = "models:/"


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
    if model is not None and not model.startswith(_SCHEME):
        return _from_folder(Path(model).expanduser())
    registry = open_registry()
    uri = model or f"{_SCHEME}{registry.default_name(registered_model)}@champion"
    version = registry.resolve(uri)
    bundle = open_bundle(registry.download_bundle(version, cache_dir.expanduser()))
    # The registry's name and number, not the manifest's: a version copied to another name keeps its bundle.
    return ServedBundle(bundle, version.name, version.version, version.aliases)


def _from_folder(folder: Path) -> ServedBundle:
    if not (folder / MANIFEST).is_file():
        raise BundleError(
            f"{folder}: expected a bundle (a folder with {MANIFEST}) or {_SCHEME}NAME/VERSION, found no bundle. "
            f"Make one with `python -m tfpipe.convert --model MODEL --output {folder}`."
        )
    bundle = open_bundle(folder)
    return ServedBundle(bundle, bundle.manifest.model_name, bundle.manifest.model_version, ())
