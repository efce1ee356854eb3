"""What is loaded, and which version of it answers a request."""

from collections.abc import Iterator

from serving.deployment import Deployment
from serving.errors import UnknownModelError
from serving.wanted import Wanted

CHAMPION = "champion"


class Models:
    """Versions by model name; the service's only list of them. Used on the event loop."""

    def __init__(self) -> None:
        self._versions: dict[str, dict[str | None, Deployment]] = {}

    def __iter__(self) -> Iterator[Deployment]:
        return (deployment for versions in self._versions.values() for deployment in versions.values())

    def __len__(self) -> int:
        return sum(map(len, self._versions.values()))

    def put(self, deployment: Deployment) -> Deployment | None:
        """Let a version take requests from now on; gives the one whose place it takes."""
        versions = self._versions.setdefault(deployment.name, {})
        before = versions.get(deployment.version)
        versions[deployment.version] = deployment
        return before

    def take(self, name: str, version: str | None) -> Deployment:
        """Let a version take no more requests.

        Raises:
            UnknownModelError: It is not loaded.
        """
        deployment = self._named(name, version)
        del self._versions[name][version]
        if not self._versions[name]:
            del self._versions[name]
        return deployment

    def find(self, wanted: Wanted) -> Deployment:
        """The version that a request names, or the one that routing gives.

        Raises:
            UnknownModelError: No such model, version or alias; says what there is.
        """
        name = wanted.name if wanted.name is not None else self._only_name()
        if wanted.version is not None:
            return self._named(name, wanted.version)
        if wanted.alias is not None:
            return self._of_alias(name, wanted.alias)
        versions = self._of_name(name)
        champions = [one for one in versions.values() if CHAMPION in one.engine.aliases]
        return (champions or list(versions.values()))[0]

    def _of_name(self, name: str) -> dict[str | None, Deployment]:
        if name not in self._versions:
            known = " or ".join(map(repr, self._versions))
            raise UnknownModelError(
                f"model_name: expected {known}, received {name!r}.",
                model_name=next(iter(self._versions), None),
                models=list(self._versions),
            )
        return self._versions[name]

    def _only_name(self) -> str:
        if len(self._versions) == 1:
            return next(iter(self._versions))
        raise UnknownModelError(
            f"model_name: expected one of {', '.join(map(repr, self._versions))}, received none.",
            models=list(self._versions),
        )

    def _named(self, name: str, version: str | None) -> Deployment:
        versions = self._of_name(name)
        if version not in versions:
            known = [one for one in versions if one is not None]
            served = " or ".join(map(repr, known)) if known else "none (it is not registered)"
            raise UnknownModelError(
                f"model_version: expected {served} of model {name!r}, received {version!r}.",
                model_name=name,
                model_version=known[0] if known else None,
                model_versions=known,
            )
        return versions[version]

    def _of_alias(self, name: str, alias: str) -> Deployment:
        versions = self._of_name(name)
        for deployment in versions.values():
            if alias in deployment.engine.aliases:
                return deployment
        known = [alias for deployment in versions.values() for alias in deployment.engine.aliases]
        raise UnknownModelError(
            f"alias: expected one of {known} of model {name!r}, received {alias!r}.", model_name=name, aliases=known
        )
