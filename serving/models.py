"""What is loaded, and which version of it answers a request."""

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Literal

from serving.deployment import Deployment
from serving.errors import BreakerOpenError, UnknownModelError
from serving.wanted import Wanted
from tfpipe.core.routing import CHAMPION, Arm, Routing, choose, initial, point_of

# What documents call the only version of a model that is not registered.
UNREGISTERED = "1"

Way = Arm | Literal["named", "alias", "fallback"]


class Models:
    """Versions by model name, and the routing of each; the service's only list of them. Used on the event loop.

    Attributes:
        changes: How often anything that requests go by was changed.

    Args:
        chance: Gives points of [0, 1).
    """

    def __init__(self, *, chance: Callable[[], float] = random.random) -> None:
        self._versions: dict[str, dict[str | None, Deployment]] = {}
        self._routings: dict[str, Routing] = {}
        self._chance = chance
        self.changes = 0
        # Since the last of them.
        self._known: dict[Wanted, tuple[Deployment, Way] | None] = {}

    def __iter__(self) -> Iterator[Deployment]:
        return (deployment for versions in self._versions.values() for deployment in versions.values())

    def __len__(self) -> int:
        return sum(map(len, self._versions.values()))

    @property
    def names(self) -> list[str]:
        """Of the models."""
        return list(self._versions)

    def put(self, deployment: Deployment) -> Deployment | None:
        """Let a version take requests from now on; gives the one whose place it takes."""
        versions = self._versions.setdefault(deployment.name, {})
        before = versions.get(deployment.version)
        versions[deployment.version] = deployment
        self._change()
        self._begin(deployment.name)
        return before

    def take(self, name: str, version: str | None) -> Deployment:
        """Let a version take no more requests.

        Raises:
            UnknownModelError: It is not loaded.
        """
        deployment = self._loaded(name, version)
        del self._versions[name][version]
        self._change()
        if self._versions[name]:
            self._begin(name)
        else:
            del self._versions[name]
            del self._routings[name]
        return deployment

    def get(self, name: str, version: str) -> Deployment | None:
        """A version by what documents call it; None where it is not loaded."""
        versions = self._versions.get(name, {})
        return versions.get(version) or (versions.get(None) if version == UNREGISTERED else None)

    def routing(self, name: str) -> Routing:
        """The document by which requests go.

        Raises:
            UnknownModelError: No such model.
        """
        self._of_name(name)
        return self._routings[name]

    def route(self, routing: Routing) -> None:
        """Let requests go by a document from now on; every version that has a share is loaded."""
        self._of_name(routing.model)
        self._routings[routing.model] = routing
        self._change()

    def find(self, wanted: Wanted, *, key: str | None = None, admits: bool = True) -> tuple[Deployment, Way]:
        """The version that a request names, or the one that routing gives, and how it came to it.

        Args:
            wanted: What it names.
            key: Where routing is sticky: requests with the same key go the same way.
            admits: Whether it is to answer, and so a version that fails again and again is passed over.

        Raises:
            UnknownModelError: No such model, version or alias, or a version that was rolled back from.
            BreakerOpenError: It fails again and again, and there is no other to fall back on.
        """
        name = wanted.name if wanted.name is not None else self._only_name()
        if wanted.version is not None:
            return _closed(self._named(name, wanted.version), admits), "named"
        if wanted.alias is not None:
            return _closed(self._of_alias(name, wanted.alias), admits), "alias"
        if name not in self._routings:
            # For its error.
            self._of_name(name)
        routing = self._routings[name]
        sticks = key is not None and routing.sticky == "key"
        version, arm = choose(routing, point_of(key or "", routing.salt) if sticks else self._chance())
        chosen = self.get(name, version) or self._loaded(name, version)
        if not admits or chosen.breaker.admit():
            return chosen, arm
        fallback = self.get(name, routing.fallback) if routing.fallback is not None else None
        if fallback is not None and fallback is not chosen and fallback.breaker.admit():
            return fallback, "fallback"
        raise _open(chosen)

    def aliases_of(self, deployment: Deployment) -> list[str]:
        """What the version is called now, by the routing that requests go by."""
        aliases = self._routings[deployment.name].aliases
        return [alias for alias, version in aliases.items() if version == _documented(deployment)]

    def only(self, wanted: Wanted) -> tuple[Deployment, Way] | None:
        """The version that answers all requests that name this, and how they come to it.

        None where chance or a key decides: it is asked once a request, or the shares would not be kept.

        Raises:
            UnknownModelError: See `find`.
        """
        if wanted not in self._known:
            self._known[wanted] = self.find(wanted, admits=False) if self._split(wanted) is None else None
        return self._known[wanted]

    def may_go_by_key(self, wanted: Wanted) -> bool:
        """Whether the version that answers hangs on a routing key."""
        routing = self._split(wanted)
        return routing is not None and routing.sticky == "key"

    def _split(self, wanted: Wanted) -> Routing | None:
        """The routing between the versions that may answer; None where there is one at most."""
        if wanted.version is not None or wanted.alias is not None:
            return None
        name = wanted.name
        if name is None and len(self._routings) == 1:
            (name,) = self._routings
        routing = self._routings.get(name) if name is not None else None
        return routing if routing is not None and len(routing.slices) > 1 else None

    def _change(self) -> None:
        self.changes += 1
        self._known.clear()

    def _begin(self, name: str) -> None:
        """Until a document is given, the champion among the versions answers, else the first."""
        if name in self._routings and self._routings[name].revision:
            return
        versions = list(self._versions[name].values())
        champions = [one for one in versions if CHAMPION in one.engine.aliases]
        aliases = {alias: _documented(one) for one in versions for alias in one.engine.aliases}
        begun = initial(name, _documented((champions or versions)[0]), aliases=aliases)
        self._routings[name] = begun if champions else _without_champion(begun)

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

    def _named(self, name: str, version: str) -> Deployment:
        self._of_name(name)
        if version in self._routings[name].withdrawn:
            raise UnknownModelError(
                f"model_version: version {version!r} of model {name!r} was rolled back from, and is refused until it "
                "is promoted again.",
                model_name=name,
                model_version=version,
                withdrawn=True,
            )
        return self._loaded(name, version)

    def _loaded(self, name: str, version: str | None) -> Deployment:
        versions = self._of_name(name)
        if version in versions:
            return versions[version]
        known = [one for one in versions if one is not None]
        served = " or ".join(map(repr, known)) if known else "none (it is not registered)"
        raise UnknownModelError(
            f"model_version: expected {served} of model {name!r}, received {version!r}.",
            model_name=name,
            model_version=known[0] if known else None,
            model_versions=known,
        )

    def _of_alias(self, name: str, alias: str) -> Deployment:
        self._of_name(name)
        aliases = self._routings[name].aliases
        deployment = self.get(name, aliases[alias]) if alias in aliases else None
        if deployment is None:
            known = list(aliases)
            raise UnknownModelError(
                f"alias: expected one of {known} of model {name!r}, received {alias!r}.", model_name=name, aliases=known
            )
        return deployment


def _closed(deployment: Deployment, admits: bool) -> Deployment:
    if admits and not deployment.breaker.admit():
        raise _open(deployment)
    return deployment


def _documented(deployment: Deployment) -> str:
    return deployment.version or UNREGISTERED


def _without_champion(routing: Routing) -> Routing:
    return replace(routing, aliases={alias: one for alias, one in routing.aliases.items() if alias != CHAMPION})


def _open(deployment: Deployment) -> BreakerOpenError:
    version = f"version {deployment.version}" if deployment.version else "its version"
    return BreakerOpenError(
        f"model {deployment.name!r}: expected {version} to answer, but it fails again and again, and is left alone for "
        "a while.",
        status="breaker_open",
    )
