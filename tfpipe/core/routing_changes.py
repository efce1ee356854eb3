"""Changes of a routing document: each is a function of the document before it and of who asks, when and why."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from tfpipe.core.errors import RegistryError
from tfpipe.core.routing import CHAMPION, PARTS, Canary, Routing, Slice, Sticky, millionths, parts_of, reshare

MAX_WORDS = 1000


@dataclass(frozen=True)
class Origin:
    """Where a change comes from.

    Attributes:
        who: E.g. "ada@build"; at most `MAX_WORDS` characters, as `why`.
        when: With a time zone.
        why: In the words of who made it.
    """

    who: str
    when: datetime
    why: str = ""

    def __post_init__(self) -> None:
        for name, text in (("who", self.who), ("why", self.why)):
            if len(text) > MAX_WORDS:
                raise RegistryError(f"{name}: expected at most {MAX_WORDS} characters, received {len(text)}.")
        if self.when.tzinfo is None:
            raise RegistryError(f"when: expected a time with its zone, received {self.when.isoformat()}.")


def promote(routing: Routing, version: str, origin: Origin) -> Routing:
    """Give a version everything, and the alias champion; one that was withdrawn is served again."""
    return _next(
        routing,
        origin,
        f"promote {version}",
        slices=reshare(routing.slices, {version: PARTS}),
        aliases={**routing.aliases, CHAMPION: version},
        withdrawn=tuple(one for one in routing.withdrawn if one != version),
        promoted=(*(one for one in routing.promoted if one != version), version),
        canary=None,
        shadow=_unless(routing.shadow, version),
        fallback=_unless(routing.fallback, version),
    )


def split(
    routing: Routing,
    shares: Mapping[str, float],
    origin: Origin,
    *,
    sticky: Sticky | None = None,
    shadow: str | None = None,
    fallback: str | None = None,
) -> Routing:
    """Divide the traffic; a canary that is under way ends.

    Args:
        routing: The document before.
        shares: By version, each above 0, summing to 1.
        origin: Who, when, why.
        sticky: None: as before.
        shadow: None: as before; "": none.
        fallback: None: as before; "": none.

    Raises:
        RegistryError: Shares that are none, or a version that is withdrawn.
    """
    where = f"split of {routing.model!r}"
    wanted = millionths(shares, where=where)
    chosen_shadow = routing.shadow if shadow is None else shadow or None
    chosen_fallback = routing.fallback if fallback is None else fallback or None
    for version in (*shares, chosen_shadow, chosen_fallback):
        _refuse_withdrawn(routing, version, where)
    what = ", ".join(f"{100 * share:.6g} % {version}" for version, share in shares.items())
    if shadow is not None:
        what += f"; shadow {shadow or 'none'}"
    if fallback is not None:
        what += f"; fallback {fallback or 'none'}"
    return _next(
        routing,
        origin,
        f"split {what}",
        slices=reshare(routing.slices, wanted),
        sticky=sticky or routing.sticky,
        shadow=chosen_shadow,
        fallback=chosen_fallback,
        canary=None,
    )


def give_alias(routing: Routing, alias: str, version: str, origin: Origin) -> Routing:
    """Let an alias other than champion name a version; what traffic goes where stays."""
    if alias == CHAMPION:
        raise RegistryError(f"alias of {routing.model!r}: expected another than {CHAMPION!r}, which promotion gives.")
    _refuse_withdrawn(routing, version, f"alias {alias!r} of {routing.model!r}")
    return _next(routing, origin, f"alias {alias} is {version}", aliases={**routing.aliases, alias: version})


def rollback(routing: Routing, origin: Origin, version: str | None = None) -> Routing:
    """Give an earlier version everything, and withdraw every other that has traffic.

    Args:
        routing: The document before.
        origin: Who, when, why.
        version: To go back to. None: where several have traffic, to the champion among them; else to the one promoted
            before the champion.

    Raises:
        RegistryError: There is none to go back to, it is withdrawn, or it has all traffic already.
    """
    target = version if version is not None else routing.standby
    if target is None:
        raise RegistryError(
            f"rollback of {routing.model!r}: expected a version that was promoted before "
            f"{', '.join(routing.shares)}, found none; name the version to go back to."
        )
    _refuse_withdrawn(routing, target, f"rollback of {routing.model!r}")
    left = [one for one in routing.shares if one != target]
    if not left:
        raise RegistryError(f"rollback of {routing.model!r}: expected another version than {target}, which has it all.")
    withdrawn = tuple(dict.fromkeys([*routing.withdrawn, *left]))
    before = routing.promoted[: routing.promoted.index(target)] if target in routing.promoted else routing.promoted
    kept = {alias: one for alias, one in routing.aliases.items() if one not in withdrawn}
    return _next(
        routing,
        origin,
        f"roll back from {', '.join(left)} to {target}",
        slices=reshare(routing.slices, {target: PARTS}),
        aliases={**kept, CHAMPION: target},
        withdrawn=withdrawn,
        promoted=(*(one for one in before if one not in withdrawn), target),
        canary=None,
        shadow=_unless(routing.shadow, *withdrawn, target),
        fallback=_unless(routing.fallback, *withdrawn, target),
    )


def start_canary(
    routing: Routing,
    version: str,
    steps: Sequence[float],
    origin: Origin,
    *,
    limits: Mapping[str, float] | None = None,
    evidence: Mapping[str, Any] | None = None,
) -> Routing:
    """Give a version the first of several growing shares; the others keep their proportions.

    Args:
        routing: The document before.
        version: To try.
        steps: Growing, between 0 and 1.
        origin: Who, when, why.
        limits: See `Canary`.
        evidence: See `Canary`.

    Raises:
        RegistryError: Steps that do not grow within (0, 1), a canary that is under way, or a version that is withdrawn
            or has traffic already.
    """
    where = f"canary of {routing.model!r}"
    if routing.canary is not None:
        raise RegistryError(f"{where}: expected none under way, but that of version {routing.canary.version} is.")
    _refuse_withdrawn(routing, version, where)
    if version in routing.shares:
        raise RegistryError(f"{where}: expected a version without traffic, but {version} has a share.")
    grows = all(one < other for one, other in zip([0.0, *steps], [*steps, 1.0], strict=True))
    if not steps or not grows:
        raise RegistryError(f"{where}: expected steps that grow between 0 and 1, received {list(steps)}.")
    champion = routing.champion
    baseline = champion if champion in routing.shares and champion is not None else next(iter(routing.shares))
    canary = Canary(version, baseline, tuple(steps), limits=dict(limits or {}), evidence=dict(evidence or {}))
    return _next(
        routing, origin, f"canary {version} at {100 * steps[0]:.6g} %",
        slices=_with_share(routing, version, steps[0]), canary=canary, shadow=_unless(routing.shadow, version),
    )  # fmt: skip


def step_canary(routing: Routing, origin: Origin, *, evidence: Mapping[str, Any]) -> Routing:
    """Give the canary its next share.

    Raises:
        RegistryError: None is under way, or it is at the last step, after which it is promoted.
    """
    canary = routing.canary
    if canary is None or canary.step + 1 == len(canary.steps):
        found = "none" if canary is None else "one at its last step"
        raise RegistryError(f"canary of {routing.model!r}: expected one that has a step to go, found {found}.")
    after = replace(canary, step=canary.step + 1, evidence=dict(evidence))
    return _next(
        routing, origin, f"canary {canary.version} at {100 * after.share:.6g} %",
        slices=_with_share(routing, canary.version, after.share), canary=after,
    )  # fmt: skip


def utc(moment: datetime) -> str:
    """A time as documents have it: such texts sort as the times do."""
    return moment.astimezone(UTC).isoformat(timespec="milliseconds")


def _with_share(routing: Routing, version: str, share: float) -> tuple[Slice, ...]:
    others = {one: parts for one, parts in parts_of(routing.slices).items() if one != version}
    total = sum(others.values())
    wanted = {one: (1 - share) * parts / total for one, parts in others.items()} | {version: share}
    return reshare(routing.slices, millionths(wanted, where=f"canary of {routing.model!r}"))


def _next(routing: Routing, origin: Origin, what: str, **changes: Any) -> Routing:
    return replace(
        routing,
        **changes,
        revision=routing.revision + 1,
        id="",
        parent=routing.id,
        who=origin.who,
        # Clocks of two machines differ; the ledger's order is that of the documents.
        when=max(utc(origin.when), routing.when),
        what=what,
        why=origin.why,
    )


def _unless(version: str | None, *others: str) -> str | None:
    return None if version in others else version


def _refuse_withdrawn(routing: Routing, version: str | None, where: str) -> None:
    if version in routing.withdrawn:
        raise RegistryError(f"{where}: version {version} was rolled back from; promote it to serve it again.")
