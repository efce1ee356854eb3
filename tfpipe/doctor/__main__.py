"""Is everything here that tfpipe needs? `tfpipe doctor`, or `python -m tfpipe.doctor`."""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from tfpipe.doctor.checks import Wanted, examine, installed_parts
from tfpipe.doctor.finding import healthy, to_json, to_table
from tfpipe.startup import run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code: 0 all is well, 1 something needed is missing, 2 wrong usage."""
    options = _parser().parse_args(arguments)
    return run_command(lambda: _command(options))


def _command(options: argparse.Namespace) -> int:
    wanted = Wanted(options.store, options.port, tuple(options.output), installed_parts())
    findings = examine(wanted)
    if options.json:
        sys.stdout.write(to_json(wanted.parts, findings))
    else:
        sys.stdout.write(to_table(wanted.parts, findings, width=shutil.get_terminal_size((120, 24)).columns))
    return 0 if healthy(findings) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tfpipe.doctor",
        description="Check what the installed parts of tfpipe need, and say which command mends what is missing. "
        "Runs two workers for real; takes up to a minute, on a busy machine several.",
        epilog="exit codes: 0 all is well, perhaps with warnings; 1 something needed is missing; 2 wrong usage.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument(
        "--store", default="", metavar="URI", help="MLflow store; default: MLFLOW_TRACKING_URI, mlflow.db"
    )
    parser.add_argument("--port", type=int, default=8000, help="of the service (8000)")
    parser.add_argument(
        "--output", type=Path, nargs="+", default=[Path("runs"), Path("bundles")], metavar="DIR",
        help="folders that will be written (runs bundles)",
    )  # fmt: skip
    return parser


if __name__ == "__main__":
    sys.exit(main())
