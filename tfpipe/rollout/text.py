"""What `tfpipe registry` prints."""

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TextIO

from tfpipe.core.routing import Routing
from tfpipe.rollout.canary import Plan, Progress

if TYPE_CHECKING:
    from tfpipe.registry import ModelVersion

_NO_BUNDLE = "no bundle"


def versions_table(name: str, versions: "Sequence[ModelVersion]", routing: Routing | None) -> str:
    """The versions of a model: newest first, what each gets and how well it does."""
    shares = routing.shares if routing is not None else {}
    revision = "no champion: nothing is served" if routing is None else f"revision {routing.revision}"
    lines = [f"{name}  {revision}", f"  {'version':9}{'share':>8}  {'state':22}{'created':20}{'bundle':14}metrics"]
    for one in versions:
        share = f"{100 * shares[one.version]:.4g} %" if one.version in shares else "–"
        bundle = (one.bundle_sha256 or _NO_BUNDLE)[:12]
        created = one.tags.get("tfpipe.created", "–")[:19]
        metrics = _metrics(one.tags.get("tfpipe.metrics", ""))
        state = ", ".join(_states(one.version, one.aliases, routing))
        lines.append(f"  {one.version:9}{share:>8}  {state:22}{created:20}{bundle:14}{metrics}".rstrip())
    return "\n".join(lines) + "\n"


def routing_lines(routing: Routing) -> list[str]:
    """What a document says, a line each."""
    lines = [f"{100 * share:.6g} % version {version}" for version, share in routing.shares.items()]
    lines += [f"{name} version {one}" for name in ("shadow", "fallback") if (one := getattr(routing, name)) is not None]
    if routing.canary is not None:
        lines.append(f"canary of version {routing.canary.version}, step {routing.canary.step + 1}")
    if routing.withdrawn:
        lines.append(f"withdrawn: {', '.join(routing.withdrawn)}")
    return lines


def history_table(documents: Sequence[Routing]) -> str:
    """Every change, the newest first."""
    if not documents:
        return "no change was made\n"
    width = max(len(one.who) for one in documents)
    return "".join(
        f"{one.revision:>5}  {one.when[:19]}Z  {one.who:{width}}  {one.what}"
        + (f"  ({one.why})" if one.why else "")
        + "\n"
        for one in documents
    )


def progress_line(stream: TextIO, plan: Plan) -> Callable[[Progress], None]:
    """Shows a canary on one line of a terminal; elsewhere a line a step."""
    seen: list[tuple[int, tuple[str, ...]]] = []

    def show(progress: Progress) -> None:
        canary = progress.routing.canary
        if canary is None:
            if stream.isatty():
                stream.write("\n")
            return
        verdict = "waiting for counts" if progress.verdict is None else progress.verdict.reason
        text = f"version {canary.version} at {100 * canary.share:.4g} %: {verdict}"
        if progress.silent:
            text += f" ({len(progress.silent)} silent: {' '.join(progress.silent)})"
        if stream.isatty():
            stream.write(f"\r\x1b[K{text[:200]}")
            stream.flush()
        elif (progress.routing.revision, progress.silent) not in seen:
            seen.append((progress.routing.revision, progress.silent))
            stream.write(text + "\n")

    return show


def _states(version: str, aliases: Sequence[str], routing: Routing | None) -> list[str]:
    if routing is None:
        return list(aliases)
    states = sorted({*(alias for alias, one in routing.aliases.items() if one == version)})
    for name in ("shadow", "fallback"):
        if getattr(routing, name) == version:
            states.append(name)
    if routing.canary is not None and routing.canary.version == version:
        states.append("canary")
    if version in routing.withdrawn:
        states.append("withdrawn")
    return states


def _metrics(text: str) -> str:
    try:
        values = json.loads(text)
        return " ".join(f"{name}={value:.4g}" for name, value in sorted(values.items()))
    except (ValueError, TypeError, AttributeError):
        return ""
