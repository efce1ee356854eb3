"""A routing document as JSON, read with a sentence for whatever is wrong in it."""

import json
import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeVar

from tfpipe.core.errors import RegistryError
from tfpipe.core.routing import PARTS, Canary, Routing, Slice, millionths, parts_of

FORMAT = 1

_TEXTS = ("model", "salt", "id", "parent", "who", "when", "what", "why")
_KEYS = {
    "format", "shares", "slices", "sticky", "shadow", "fallback", "aliases", "withdrawn", "promoted", "canary",
    "revision", *_TEXTS,
}  # fmt: skip
_CANARY_KEYS = {"version", "baseline", "steps", "step", "limits", "evidence"}
T = TypeVar("T")


def to_dict(routing: Routing) -> dict[str, Any]:
    """A document as JSON values. `shares` is for people: `slices` say the same and more."""
    canary = routing.canary
    return {
        "format": FORMAT,
        "model": routing.model,
        "revision": routing.revision,
        "id": routing.id,
        "parent": routing.parent,
        "who": routing.who,
        "when": routing.when,
        "what": routing.what,
        "why": routing.why,
        "shares": routing.shares,
        "slices": [[one.version, one.end] for one in routing.slices],
        "sticky": routing.sticky,
        "salt": routing.salt,
        "shadow": routing.shadow,
        "fallback": routing.fallback,
        "aliases": dict(routing.aliases),
        "withdrawn": list(routing.withdrawn),
        "promoted": list(routing.promoted),
        "canary": None
        if canary is None
        else {
            "version": canary.version,
            "baseline": canary.baseline,
            "steps": list(canary.steps),
            "step": canary.step,
            "limits": dict(canary.limits),
            "evidence": dict(canary.evidence),
        },
    }


def to_json(routing: Routing) -> str:
    """A document in one line of ASCII."""
    return json.dumps(to_dict(routing), separators=(",", ":"), sort_keys=True)


def from_json(text: str | bytes, *, where: str) -> Routing:
    """Read what `to_json` wrote.

    Raises:
        RegistryError: It is no such document; `where` names it.
    """
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RegistryError(f"{where}: expected a routing document, received no JSON ({error}).") from error
    return from_dict(values, where=where)


def from_dict(values: Any, *, where: str) -> Routing:
    """Read what `to_dict` gave.

    Raises:
        RegistryError: It is no such document; `where` names it.
    """
    entry = _object(values, _KEYS, where)
    if entry["format"] != FORMAT:
        raise RegistryError(f"{where}: format: expected {FORMAT}, received {entry['format']!r}. Update tfpipe.")
    texts = {key: _typed(entry[key], str, f"{where}: {key}") for key in _TEXTS}
    if entry["sticky"] not in ("key", "random"):
        raise RegistryError(f"{where}: sticky: expected key or random, received {entry['sticky']!r}.")
    if texts["when"]:
        _check_time(texts["when"], f"{where}: when")
    routing = Routing(
        **texts,
        slices=_slices(entry["slices"], entry["shares"], where),
        sticky=entry["sticky"],
        shadow=_version_or_none(entry["shadow"], f"{where}: shadow"),
        fallback=_version_or_none(entry["fallback"], f"{where}: fallback"),
        aliases={
            alias: _version(version, f"{where}: aliases")
            for alias, version in _typed(entry["aliases"], dict, f"{where}: aliases").items()
        },
        withdrawn=_versions(entry["withdrawn"], f"{where}: withdrawn"),
        promoted=_versions(entry["promoted"], f"{where}: promoted"),
        canary=None if entry["canary"] is None else _canary(entry["canary"], f"{where}: canary"),
        revision=_count(entry["revision"], f"{where}: revision"),
    )
    _check_together(routing, where)
    return routing


def _slices(values: Any, shares: Any, where: str) -> tuple[Slice, ...]:
    pairs = _typed(values, list, f"{where}: slices")
    slices = []
    start = 0
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2:
            raise RegistryError(f"{where}: slices: expected pairs of a version and an end, received {pair!r}.")
        end = _count(pair[1], f"{where}: slices")
        if end <= start:
            raise RegistryError(f"{where}: slices: expected ends that grow, received {end} after {start}.")
        slices.append(Slice(_version(pair[0], f"{where}: slices"), end))
        start = end
    if start != PARTS:
        raise RegistryError(f"{where}: slices: expected the last to end at {PARTS}, received {start}.")
    said = {version: _number(share, f"{where}: shares") for version, share in _typed(shares, dict, where).items()}
    if millionths(said, where=f"{where}: shares") != parts_of(slices):
        raise RegistryError(f"{where}: shares: expected what slices say, received {said}.")
    return tuple(slices)


def _canary(values: Any, where: str) -> Canary:
    entry = _object(values, _CANARY_KEYS, where)
    steps = tuple(_number(step, f"{where}: steps") for step in _typed(entry["steps"], list, f"{where}: steps"))
    step = _count(entry["step"], f"{where}: step")
    if step >= len(steps):
        raise RegistryError(f"{where}: step: expected less than {len(steps)}, received {step}.")
    limits = _typed(entry["limits"], dict, f"{where}: limits")
    return Canary(
        version=_version(entry["version"], f"{where}: version"),
        baseline=_version(entry["baseline"], f"{where}: baseline"),
        steps=steps,
        step=step,
        limits={name: _number(value, f"{where}: limits") for name, value in limits.items()},
        evidence=_typed(entry["evidence"], dict, f"{where}: evidence"),
    )


def _check_together(routing: Routing, where: str) -> None:
    for version in routing.needed:
        if version in routing.withdrawn:
            raise RegistryError(f"{where}: expected no use of version {version}, which is withdrawn.")
    if routing.canary is not None and routing.canary.version not in routing.shares:
        raise RegistryError(f"{where}: canary: expected version {routing.canary.version} to have a share.")


def _object(values: Any, keys: set[str], where: str) -> Mapping[str, Any]:
    entry = _typed(values, dict, where)
    unknown, missing = sorted(set(entry) - keys), sorted(keys - set(entry))
    if unknown or missing:
        raise RegistryError(
            f"{where}: expected the keys {', '.join(sorted(keys))}; unknown: {', '.join(unknown) or 'none'}, "
            f"missing: {', '.join(missing) or 'none'}."
        )
    return entry


def _typed(value: Any, kind: type[T], where: str) -> T:
    if not isinstance(value, kind):
        raise RegistryError(f"{where}: expected {_NAMES[kind]}, received {value!r}.")
    return value


_NAMES: dict[type[Any], str] = {dict: "an object", list: "an array", str: "a string"}


def _count(value: Any, where: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise RegistryError(f"{where}: expected a whole number from 0, received {value!r}.")
    return value


def _number(value: Any, where: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise RegistryError(f"{where}: expected a number, received {value!r}.")
    return float(value)


def _version(value: Any, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise RegistryError(f"{where}: expected a version, received {value!r}.")
    return value


def _version_or_none(value: Any, where: str) -> str | None:
    return None if value is None else _version(value, where)


def _versions(values: Any, where: str) -> tuple[str, ...]:
    return tuple(_version(value, where) for value in _typed(values, list, where))


def _check_time(text: str, where: str) -> None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = datetime.min
    if moment.tzinfo is None:
        raise RegistryError(f"{where}: expected a time of ISO 8601 with its zone, received {text!r}.")
