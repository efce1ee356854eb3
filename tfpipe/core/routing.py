"""Which version of a model answers: the routing document, and the choice that it makes of a version.

A document is complete: a reader needs no earlier one. `tfpipe.core.routing_changes` makes the next one of it,
`tfpipe.core.routing_json` writes and reads it, `tfpipe.ledger` keeps them all.

Shares are whole millionths, held as slices of [0, 1): a point, which is a key's hash or chance, falls into one. When
shares change, slices are cut from versions that lose and given to those that gain; so a key stays where it is unless
its version lost just that slice, and no more keys move than must.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from tfpipe.core.errors import RegistryError

PARTS = 1_000_000
CHAMPION = "champion"

Sticky = Literal["key", "random"]
Arm = Literal["champion", "canary", "split"]


@dataclass(frozen=True)
class Slice:
    """A part of [0, 1), from the end of the slice before it.

    Attributes:
        version: Answers the points in it.
        end: In millionths, exclusive.
    """

    version: str
    end: int


@dataclass(frozen=True)
class Canary:
    """A version that is being tried on a growing share.

    Attributes:
        version: The one that is tried.
        baseline: The one that it is compared with.
        steps: Shares that it is given, one after the other; growing, in (0, 1).
        step: Index of the present one.
        limits: What decides, as `tfpipe.core.sequential.Limits` has it.
        evidence: What the controller has counted until this document, for the one that goes on; JSON values.
    """

    version: str
    baseline: str
    steps: tuple[float, ...]
    step: int = 0
    limits: Mapping[str, float] = field(default_factory=dict)
    evidence: Mapping[str, Any] = field(default_factory=dict)

    @property
    def share(self) -> float:
        """What it is given at present."""
        return self.steps[self.step]


@dataclass(frozen=True)
class Routing:
    """The routing document of one registered model.

    Attributes:
        model: Its name.
        slices: Which version answers which points; the last ends at `PARTS`.
        sticky: "key": requests with a routing key go by its hash, others by chance; "random": all by chance.
        salt: Mixed into the hash of keys; the same through all documents, so that keys stay where they are.
        shadow: Version that is asked as well, and whose answers are compared and not returned.
        fallback: Version that answers while the breaker of another is open.
        aliases: Version by alias; "champion" is the one promoted last.
        withdrawn: Versions rolled back from; refused until they are promoted again.
        promoted: Versions promoted, in order; what a rollback undid is not among them.
        canary: None: none is under way.
        revision: 0 for what no ledger holds, then 1, 2, 3, ...
        id: What the ledger knows this document by; "" before it is written.
        parent: `id` of the document before it; "" for the first.
        who: Made the change, e.g. "ada@build".
        when: Of the change; ISO 8601 in UTC, with milliseconds.
        what: The change in a line.
        why: Its reason.
    """

    model: str
    slices: tuple[Slice, ...]
    sticky: Sticky = "key"
    salt: str = ""
    shadow: str | None = None
    fallback: str | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)
    withdrawn: tuple[str, ...] = ()
    promoted: tuple[str, ...] = ()
    canary: Canary | None = None
    revision: int = 0
    id: str = ""
    parent: str = ""
    who: str = ""
    when: str = ""
    what: str = ""
    why: str = ""

    @property
    def champion(self) -> str | None:
        """The version promoted last; None where that was rolled back from by hand, or never was."""
        return self.aliases.get(CHAMPION)

    @property
    def shares(self) -> dict[str, float]:
        """Share by version, the largest first; they sum to 1."""
        parts = parts_of(self.slices)
        return {version: parts[version] / PARTS for version in sorted(parts, key=lambda one: (-parts[one], one))}

    @property
    def needed(self) -> tuple[str, ...]:
        """Every version that must be loaded for this document to hold."""
        extra = [version for version in (self.shadow, self.fallback) if version is not None]
        return tuple(dict.fromkeys([*self.shares, *extra, *self.aliases.values()]))

    @property
    def standby(self) -> str | None:
        """The version that a rollback without a name would go to, worth keeping loaded; None where there is none."""
        return next((one for one in _earlier(self) if one not in self.withdrawn), None)


def initial(model: str, version: str, *, aliases: Mapping[str, str] | None = None) -> Routing:
    """The document of a model for which none was written: one version answers everything."""
    names = dict(aliases or {}) | {CHAMPION: version}
    return Routing(model, (Slice(version, PARTS),), salt=model, aliases=names, promoted=(version,))


def choose(routing: Routing, point: float) -> tuple[str, Arm]:
    """The version that answers a point, and what it is there.

    Args:
        routing: The document.
        point: In [0, 1): `point_of` a key, or chance.
    """
    position = int(point * PARTS)
    version = routing.slices[-1].version
    for one in routing.slices:
        if position < one.end:
            version = one.version
            break
    if routing.canary is not None and version == routing.canary.version:
        return version, "canary"
    return version, "champion" if version == routing.champion or len(routing.slices) == 1 else "split"


def point_of(key: str, salt: str) -> float:
    """A key's place in [0, 1): the first 53 bits of BLAKE2b over its UTF-8 bytes, keyed by the salt's.

    The same everywhere and for ever; salts that differ place a key independently.

    Source: RFC 7693.
    """
    # A salt may be of any length, a key of BLAKE2b has at most 64 bytes.
    secret = hashlib.blake2b(salt.encode("utf-8", "surrogatepass"), digest_size=32).digest()
    digest = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8, key=secret).digest()
    # 53 bits are what a float holds: more could round up to 1.
    return (int.from_bytes(digest, "big") >> 11) / 2**53


def parts_of(slices: Iterable[Slice]) -> dict[str, int]:
    """Millionths by version, in the order in which they first come."""
    parts: dict[str, int] = {}
    start = 0
    for one in slices:
        parts[one.version] = parts.get(one.version, 0) + one.end - start
        start = one.end
    return parts


def reshare(slices: Sequence[Slice], wanted: Mapping[str, int]) -> tuple[Slice, ...]:
    """Slices in which each version has what is wanted, reached with the least movement.

    Args:
        slices: As they are.
        wanted: Millionths by version, each above 0, summing to `PARTS`.
    """
    have = parts_of(slices)
    surplus = {version: parts - wanted.get(version, 0) for version, parts in have.items()}
    lacking = {version: parts - have.get(version, 0) for version, parts in wanted.items()}
    pieces: list[tuple[str, int]] = []
    # From the end: a canary that grows lies there, and goes on to grow where it lies.
    for version, length in reversed(_lengths(slices)):
        given_up = min(length, max(surplus[version], 0))
        surplus[version] -= given_up
        while given_up:
            taker = next(one for one, parts in lacking.items() if parts > 0)
            taken = min(given_up, lacking[taker])
            pieces.append((taker, taken))
            lacking[taker] -= taken
            length -= taken
            given_up -= taken
        if length:
            pieces.append((version, length))
    return _joined(reversed(pieces))


def millionths(shares: Mapping[str, float], *, where: str) -> dict[str, int]:
    """Shares as whole millionths that sum to `PARTS`.

    Raises:
        RegistryError: A share that is not above 0 and at most 1, or a sum that is not 1.
    """
    # `not <` rather than `>=`: not a number must fail.
    wrong = {version: share for version, share in shares.items() if not 0.5 / PARTS <= share <= 1}
    if wrong or not shares:
        raise RegistryError(f"{where}: expected shares from 0.000001 to 1, received {dict(wrong or shares)}.")
    total = sum(shares.values())
    if not abs(total - 1) <= 1e-6:
        raise RegistryError(f"{where}: expected shares that sum to 1, received {dict(shares)}, which sum to {total:g}.")
    parts = {version: max(1, round(share * PARTS)) for version, share in shares.items()}
    largest = max(parts, key=lambda version: parts[version])
    parts[largest] += PARTS - sum(parts.values())
    return parts


def _earlier(routing: Routing) -> list[str]:
    """Versions that a rollback may go to, the nearest first."""
    serving = set(routing.shares)
    champion = routing.champion
    if champion in serving and len(serving) > 1:
        return [champion] if champion is not None else []
    return [version for version in reversed(routing.promoted) if version not in serving]


def _lengths(slices: Sequence[Slice]) -> list[tuple[str, int]]:
    starts = [0, *(one.end for one in slices)]
    return [(one.version, one.end - start) for one, start in zip(slices, starts, strict=False)]


def _joined(pieces: Iterable[tuple[str, int]]) -> tuple[Slice, ...]:
    slices: list[Slice] = []
    end = 0
    for version, length in pieces:
        end += length
        if slices and slices[-1].version == version:
            slices.pop()
        slices.append(Slice(version, end))
    return tuple(slices)
