"""`tfpipe keys create NAME --scope predict`: make an API key, print it once, and keep its hash."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from serving.keys import SCOPES, ApiKey, check_entries, new_key, read_keys
from serving.settings import read_settings, variable_of
from tfpipe.core.atomic import write_file
from tfpipe.core.errors import ConfigError
from tfpipe.startup import run_command

_OWNER_ONLY = 0o600


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Command line without the program's name.

    Returns:
        Exit code: 0, or that of the error, which is on standard error in one sentence.
    """
    arguments = _parser().parse_args(argv)
    return run_command(lambda: _command(arguments))


def _command(arguments: argparse.Namespace) -> int:
    limits = {"rate_limit": arguments.rate_limit, "concurrency": arguments.concurrency}
    entry = {
        "name": arguments.name,
        "scopes": sorted(set(arguments.scope)),
        **{name: value for name, value in limits.items() if value is not None},
    }
    path = _file_of(arguments.file)
    try:
        key = create_key(path, entry)
    except OSError as error:
        raise ConfigError(f"{path}: expected a file of API keys that can be written; {error.strerror}.") from error
    sys.stdout.write(f"{key}\n")
    sys.stderr.write("This is the only time that the key is shown.\n")
    return 0


def create_key(path: Path, entry: dict[str, Any]) -> str:
    """Make a key and append its entry to a file.

    Args:
        path: YAML, or JSON by its suffix. What is in it stays as it is, comments too; a new file is its owner's alone.
        entry: Name, scopes and limits.

    Returns:
        The key.

    Raises:
        ConfigError: The file cannot be read, the name is taken, or the entry says what it must not.
        OSError: The file cannot be written.
    """
    key, digest = new_key()
    exists = path.exists()
    entries = read_keys(path) if exists else []
    complete = {"name": entry["name"], "sha256": digest, **entry}
    check_entries([*(known.model_dump() for known in entries), complete], where=str(path))
    mode = path.stat().st_mode & 0o777 if exists else _OWNER_ONLY
    write_file(path, _appended(path, entries, complete))
    path.chmod(mode)
    return key


def _appended(path: Path, entries: Sequence[ApiKey], complete: dict[str, Any]) -> str:
    if path.suffix == ".json":
        others = [entry.model_dump(mode="json", exclude_none=True) for entry in entries]
        return json.dumps([*others, complete], indent=2) + "\n"
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    if not entries:
        # An empty list would stand before the entry.
        before = ""
    elif not before.lstrip().startswith(("-", "#")):
        raise ConfigError(f"{path}: expected entries that begin with '- ', one below the other, to append another.")
    separator = "" if not before or before.endswith("\n") else "\n"
    return before + separator + yaml.safe_dump([complete], sort_keys=False, default_flow_style=None)


def _file_of(given: Path | None) -> Path:
    path = given or read_settings().api_keys_file
    if path is None:
        raise ConfigError(f"expected a file: --file FILE, or {variable_of('api_keys_file')}.")
    return path


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tfpipe keys", description="API keys of the service.")
    commands = parser.add_subparsers(required=True, metavar="create")
    create = commands.add_parser("create", help="make a key, print it once, and append its hash to the file")
    create.add_argument("name", help="what log and limits call it")
    create.add_argument("--scope", action="append", choices=SCOPES, required=True, help="may be given twice")
    create.add_argument("--rate-limit", type=float, help="requests a second; unset: TFPIPE_SERVING_RATE_LIMIT's")
    create.add_argument("--concurrency", type=int, help="requests in flight at once; unset: any number")
    create.add_argument("--file", type=Path, help="YAML, or JSON by its suffix; unset: TFPIPE_SERVING_API_KEYS_FILE")
    return parser


if __name__ == "__main__":
    sys.exit(main())
