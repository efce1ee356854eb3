"""`tfpipe registry list|promote|split|canary|rollback|history`: which version of a registered model answers."""

import argparse
import getpass
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from tfpipe.core.errors import ConfigError, RegistryError, TfpipeError
from tfpipe.core.routing import CHAMPION, Routing, initial
from tfpipe.core.routing_changes import Origin, give_alias, promote, rollback, split
from tfpipe.core.routing_json import to_dict
from tfpipe.core.sequential import Limits
from tfpipe.rollout.canary import STEPS, Controller, Plan
from tfpipe.rollout.replicas import ADMIN_KEY, ReplicaError, Replicas
from tfpipe.rollout.text import history_table, progress_line, routing_lines, versions_table
from tfpipe.startup import run_command

if TYPE_CHECKING:
    from tfpipe.ledger import MlflowLedger
    from tfpipe.registry import Registry

MODEL = "TFPIPE_REGISTERED_MODEL"


class UnconfirmedError(TfpipeError):
    """A change is written, but services did not confirm it."""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = parser().parse_args(arguments)
    return run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> int:
    command: Callable[[argparse.Namespace], int] = options.command
    return command(options)


def _list(options: argparse.Namespace) -> int:
    registry, ledger = _open(options)
    names = [options.model] if options.model else registry.names()
    listed = [(name, registry.versions(name), _held(registry, ledger, name)) for name in names]
    if options.json:
        rows = [
            {
                "model": name,
                "versions": [{"version": one.version, "tags": one.tags, "aliases": one.aliases} for one in versions],
                "routing": None if routing is None else to_dict(routing),
            }
            for name, versions, routing in listed
        ]
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
    else:
        sys.stdout.write("\n".join(versions_table(*one) for one in listed))
    return 0


def _promote(options: argparse.Namespace) -> int:
    if options.alias == CHAMPION:
        return _change(options, [options.version], lambda held, by: promote(held, options.version, by))
    return _change(options, [options.version], lambda held, by: give_alias(held, options.alias, options.version, by))


def _split(options: argparse.Namespace) -> int:
    shares = dict(_share(text) for text in options.shares)
    if len(shares) != len(options.shares):
        raise ConfigError(f"split: expected each version once, received {' '.join(options.shares)}.")
    extra = [one for one in (options.shadow, options.fallback) if one]

    def changed(held: Routing, by: Origin) -> Routing:
        return split(held, shares, by, sticky=options.sticky, shadow=options.shadow, fallback=options.fallback)

    return _change(options, [*shares, *extra], changed)


def _rollback(options: argparse.Namespace) -> int:
    replicas = _replicas(options)
    if replicas.urls:
        if not options.model:
            raise ConfigError("rollback: expected --model beside --replicas, received none.")
        try:
            # They have MLflow loaded, which takes this process seconds.
            first, routing = replicas.roll_back(options.model, version=options.version, who=_who(), why=options.why)
        except ReplicaError as error:
            sys.stderr.write(f"no service wrote it, so it is written from here: {error}\n")
        else:
            return _confirm(replicas, routing, without=[first])
    named = [options.version] if options.version else []
    return _change(options, named, lambda held, by: rollback(held, by, options.version))


def _canary(options: argparse.Namespace) -> int:
    limits = Limits(options.alpha, options.max_errors, options.max_slower, options.max_wrong)
    steps = tuple(options.steps) if options.steps else STEPS
    plan = Plan(steps, limits, options.step_s, options.step_requests, options.poll_s)
    replicas = _replicas(options)
    if not replicas.urls:
        raise ConfigError("canary: expected --replicas with the services whose counts decide, received none.")
    registry, ledger = _open(options)
    name = registry.default_name(options.model)
    _check_versions(registry, name, [options.version])
    show = progress_line(sys.stderr, plan)
    controller = Controller(ledger, replicas, who=_who(), sleep=time.sleep, tell=show)
    routing = controller.begin(_document(registry, ledger, name), options.version, plan, options.why)
    try:
        ended = controller.run(routing, plan)
    except KeyboardInterrupt:
        held = ledger.newest(name) or routing
        sys.stderr.write(
            f"\nstopped; the split stays as it is: {', '.join(routing_lines(held))}.\nThe same command goes "
            f"on with it; `tfpipe registry rollback --model {name}` ends it.\n"
        )
        return 75
    sys.stdout.write(f"{ended.what}: {ended.why}\n")
    return 0 if ended.champion == options.version else 3


def _history(options: argparse.Namespace) -> int:
    from tfpipe.ledger import at

    registry, ledger = _open(options)
    name = registry.default_name(options.model)
    # Says which names there are, where this is none.
    registry.versions(name)
    documents = ledger.history(name)
    if options.at is not None:
        held = at(documents, options.at)
        if held is None:
            raise RegistryError(f"history of {name!r}: expected a change before {options.at.isoformat()}, found none.")
        documents = [held]
    if options.json:
        sys.stdout.write("".join(json.dumps(to_dict(one)) + "\n" for one in documents))
    elif options.at is not None:
        sys.stdout.write("\n".join(routing_lines(documents[0])) + "\n")
    else:
        sys.stdout.write(history_table(documents))
    return 0


def _change(options: argparse.Namespace, versions: Sequence[str], changed: Callable[[Routing, Origin], Routing]) -> int:
    replicas = _replicas(options)
    registry, ledger = _open(options)
    name = registry.default_name(options.model)
    _check_versions(registry, name, versions)
    origin = Origin(_who(), datetime.now(UTC), options.why)
    return _confirm(replicas, ledger.append(changed(_document(registry, ledger, name), origin)))


def _confirm(replicas: Replicas, routing: Routing, *, without: Sequence[str] = ()) -> int:
    sys.stdout.write(f"revision {routing.revision}: {routing.what}\n" + "\n".join(routing_lines(routing)) + "\n")
    answers = replicas.push(routing, without=without)
    silent = {url: answer for url, answer in answers.items() if isinstance(answer, ReplicaError)}
    if silent:
        raise UnconfirmedError(
            f"revision {routing.revision} is written, but {len(silent)} of {len(replicas.urls)} services did not "
            f"confirm it; they follow once they read the registry: {' '.join(str(error) for error in silent.values())}"
        )
    if replicas.urls:
        sys.stdout.write(f"confirmed by {', '.join(replicas.urls)}\n")
    return 0


def _held(registry: "Registry", ledger: "MlflowLedger", name: str) -> Routing | None:
    written = ledger.newest(name)
    if written is not None:
        return written
    versions = registry.versions(name)
    champion = next((one.version for one in versions if CHAMPION in one.aliases), None)
    if champion is None:
        return None
    return initial(name, champion, aliases={alias: one.version for one in versions for alias in one.aliases})


def _document(registry: "Registry", ledger: "MlflowLedger", name: str) -> Routing:
    held = _held(registry, ledger, name)
    if held is None:
        raise RegistryError(
            f"routing of {name!r}: expected a version with the alias {CHAMPION} to begin from, found none. The first "
            "bundle of a name becomes it: python -m tfpipe.convert"
        )
    return held


def _check_versions(registry: "Registry", name: str, versions: Sequence[str]) -> None:
    # Says which names there are, where this is none.
    registry.versions(name)
    for version in versions:
        found = registry.resolve(f"models:/{name}/{version}")
        if found.bundle_sha256 is None:
            raise RegistryError(
                f"{found.uri}: expected a version with a bundle, found none. "
                f"Convert it: python -m tfpipe.convert --model {found.uri}"
            )


def _open(options: argparse.Namespace) -> tuple["Registry", "MlflowLedger"]:
    # MLflow takes seconds to import: neither --help nor a rollback that a service writes waits for it.
    from tfpipe.ledger import MlflowLedger
    from tfpipe.registry import Registry

    options.model = options.model or os.environ.get(MODEL) or None
    return Registry(options.tracking_uri), MlflowLedger(options.tracking_uri)


def _replicas(options: argparse.Namespace) -> Replicas:
    options.model = options.model or os.environ.get(MODEL) or None
    urls = [url for url in options.replicas.split(",") if url]
    return Replicas(urls, admin_key=os.environ.get(ADMIN_KEY, ""))


def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        # A container's user may have no name.
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def _share(text: str) -> tuple[str, float]:
    version, _, share = text.partition("=")
    try:
        percent = share.endswith("%")
        value = float(share.removesuffix("%")) / (100 if percent else 1)
    except ValueError:
        value = -1.0
    if not version or not 0 <= value <= 1:
        raise ConfigError(f"split: expected VERSION=SHARE like 3=0.9 or 3=90%, received {text!r}.")
    return version, value


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected a time like 2026-01-31T12:00, received {text!r}") from error
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def parser() -> argparse.ArgumentParser:
    """The command line of `tfpipe registry`."""
    top = argparse.ArgumentParser(
        prog="tfpipe registry",
        description="Say which version of a registered model answers. Each change is an entry in the registry's "
        "ledger, which services follow.",
        epilog="exit codes: 0 done; 2 wrong usage, or an unknown or withdrawn version; 3 a canary was not promoted; 75 "
        "a canary was stopped and can go on; 1 the rest.",
    )
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--model", metavar="NAME", help=f"registered model (default: {MODEL}, else the only one)")
    common.add_argument("--tracking-uri", metavar="URI", help="the store (default: as MLflow has it)")
    changes = argparse.ArgumentParser(add_help=False)
    changes.add_argument("--why", default="", metavar="TEXT", help="the reason, for the ledger")
    changes.add_argument(
        "--replicas", default="", metavar="URL,...",
        help=f"services that are told at once, with the admin key in {ADMIN_KEY}; all must confirm",
    )  # fmt: skip
    reading = argparse.ArgumentParser(add_help=False)
    reading.add_argument("--json", action="store_true", help="for programs")

    one = commands.add_parser("list", parents=[common, reading], help="versions, what they are and what they get")
    one.set_defaults(command=_list)
    one = commands.add_parser("promote", parents=[common, changes], help="give a version everything")
    one.add_argument("version", metavar="VERSION")
    one.add_argument(
        "--alias", default=CHAMPION, help="give it this alias instead, and no traffic but what names it (champion)"
    )
    one.set_defaults(command=_promote)
    one = commands.add_parser("split", parents=[common, changes], help="divide the traffic")
    one.add_argument("shares", metavar="VERSION=SHARE", nargs="+", help="like 3=0.9 4=0.1, or 3=90%% 4=10%%")
    one.add_argument(
        "--sticky", choices=("key", "random"),
        help="whether requests with a routing key go by it (default: as before; key at first)",
    )  # fmt: skip
    one.add_argument("--shadow", metavar="VERSION", help="asked as well, its answers only compared; '' for none")
    one.add_argument("--fallback", metavar="VERSION", help="answers while another's breaker is open; '' for none")
    one.set_defaults(command=_split)
    one = commands.add_parser("rollback", parents=[common, changes], help="go back to an earlier version")
    one.add_argument("version", metavar="VERSION", nargs="?", help="default: the one promoted last before")
    one.set_defaults(command=_rollback)
    _add_canary(commands.add_parser("canary", parents=[common, changes], help="try a version, and decide"))
    one = commands.add_parser("history", parents=[common, reading], help="every change; or what served at a time")
    one.add_argument("--at", type=_moment, metavar="TIME", help="ISO 8601; UTC where it names no zone")
    one.set_defaults(command=_history)
    return top


def _add_canary(one: argparse.ArgumentParser) -> None:
    plan, limits = Plan(), Limits()
    one.add_argument("version", metavar="VERSION")
    shown = " ".join(f"{step:g}" for step in STEPS)
    one.add_argument("--steps", type=float, nargs="+", metavar="SHARE", help=f"growing shares (default: {shown})")
    for option, default, meaning in (
        ("--step-s", plan.step_s, "shortest time at a step, in seconds"),
        ("--poll-s", plan.poll_s, "time between two readings, in seconds"),
        ("--alpha", limits.alpha, "chance of a wrong rollback"),
        ("--max-errors", limits.errors, "how much larger the share of failed requests may be"),
        ("--max-slower", limits.slower, "how much larger the share of requests over any one time may be"),
        ("--max-wrong", limits.wrong, "how much larger the share of answers that feedback calls wrong may be"),
    ):
        one.add_argument(option, type=float, default=default, metavar="N", help=f"{meaning} (default: {default:g})")
    one.add_argument(
        "--step-requests", type=int, default=plan.step_requests, metavar="N",
        help=f"fewest requests that the version answers at a step (default: {plan.step_requests})",
    )  # fmt: skip
    one.set_defaults(command=_canary)


if __name__ == "__main__":
    sys.exit(main())
