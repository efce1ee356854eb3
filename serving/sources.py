"""Where versions and routing documents of the served models come from: the registry, or folders."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from serving.errors import UnknownModelError
from serving.runs import AnyEngine
from serving.settings import ServingSettings
from serving.source import SCHEME, ServedBundle, entries, fetch_bundle, open_default_registry
from tfpipe.core.errors import RegistryError
from tfpipe.core.routing import CHAMPION
from tfpipe.ledger import FolderLedger, Ledger, MlflowLedger

if TYPE_CHECKING:
    from tfpipe.registry import Registry

# A poll must not hang on a registry that is away: the next one comes soon.
_RETRY_S = 1.0
_FOLLOWED = re.compile(rf"models:/(?P<name>[^/:@\"]+)@{CHAMPION}")


class Sources:
    """What the settings say of where models come from. Its methods block, and are called in threads.

    A model that is served as its champion follows the ledger of the registry; one that is served from a folder, or by
    the number of a version, keeps a ledger in the cache folder.

    Args:
        settings: Which models.
        open_engine: Opens a bundle, and proves it.
        open_registry: Called where the registry is asked.
    """

    def __init__(
        self,
        settings: ServingSettings,
        open_engine: Callable[[ServedBundle], AnyEngine],
        *,
        open_registry: "Callable[[float], Registry]" = open_default_registry,
    ) -> None:
        self._settings, self._open_engine, self._open_registry = settings, open_engine, open_registry
        self._own = FolderLedger(settings.cache_dir.expanduser())
        self._registrys: MlflowLedger | None = None

    @property
    def _entries(self) -> list[tuple[str, str | None]]:
        # Not in the constructor: a list that cannot be served is told where models are loaded.
        return entries(self._settings.model)

    def follows(self, model: str) -> bool:
        """Whether the registry says which version of a model answers."""
        for name, entry in self._entries:
            followed = _FOLLOWED.fullmatch(entry) if entry is not None else None
            if not name and (entry is None or (followed is not None and followed["name"] == model)):
                return True
        return False

    def ledger(self, model: str) -> Ledger:
        """Where the routing documents of a model are."""
        if not self.follows(model):
            return self._own
        if self._registrys is None:
            self._registrys = MlflowLedger(retry_s=_RETRY_S)
        return self._registrys

    def open(self, model: str, version: str) -> AnyEngine:
        """A version of a model: fetched, opened, proved and warm.

        Raises:
            UnknownModelError: There is no such version.
            TfpipeError: It cannot be served.
        """
        engine = self._open_engine(self._served(model, version))
        engine.warm_up()
        return engine

    def _served(self, model: str, version: str) -> ServedBundle:
        cache_dir = self._settings.cache_dir
        for name, entry in self._entries:
            if entry is None or not entry.startswith(SCHEME):
                continue
            registered = entry.removeprefix(SCHEME).partition("@")[0].partition("/")[0]
            if model == (name or registered):
                return replace(self._registered(registered, version, cache_dir), name=model)
        for name, entry in self._entries:
            if entry is not None and not entry.startswith(SCHEME):
                served = fetch_bundle(entry, registered_model=None, cache_dir=cache_dir)
                if (name or served.name, served.version) == (model, version):
                    return replace(served, name=model)
        if any(entry is None for _, entry in self._entries):
            return self._registered(model, version, cache_dir)
        raise UnknownModelError(
            f"model_version: expected a version of {model!r} that the service was started with, received {version!r}; "
            "others are loaded of models that come from a registry.",
            model_name=model,
            model_version=version,
        )

    def _registered(self, name: str, version: str, cache_dir: Path) -> ServedBundle:
        uri = f"{SCHEME}{name}/{version}"
        try:
            return fetch_bundle(
                uri,
                registered_model=None,
                cache_dir=cache_dir,
                registry_wait_s=self._settings.registry_wait_ms / 1000,
                open_registry=self._open_registry,
            )
        except RegistryError as error:
            raise UnknownModelError(str(error), model_name=name, model_version=version) from error
