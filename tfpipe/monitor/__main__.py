"""`tfpipe monitor report URL`: what a service was asked of late, beside what its models were trained on."""

if __name__ == "__main__":
    from tfpipe.interruption import end_at_signals

    end_at_signals()

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tfpipe.core import atomic
from tfpipe.core.errors import ConfigError, GateError
from tfpipe.header_option import header
from tfpipe.monitor.asking import ask
from tfpipe.monitor.findings import find
from tfpipe.startup import run_command


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = _parser().parse_args(arguments)
    return run_command(lambda: _report(options))


def _report(options: argparse.Namespace) -> int:
    url = urlsplit(options.url)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ConfigError(f"URL: expected http://HOST:PORT, received {options.url!r}.")
    if options.max_psi is not None and not 0 < options.max_psi < float("inf"):
        raise ConfigError(f"--max-psi: expected more than 0, received {options.max_psi:g}.")
    atomic.writable_folder(options.output.parent, where="--output")
    answered = ask(options.url.rstrip("/"), dict(options.header), timeout_s=options.timeout)
    found = find(answered, url=options.url, model=options.model, max_psi=options.max_psi)
    # Pictures take a while to import.
    from tfpipe.monitor.page import render_page

    atomic.write_file(options.output, render_page(found))
    sys.stdout.write(_summary(found) + f"{options.output}\n")
    has_drifted = any(one["verdict"] == "drifted" for model in found["models"] for one in model["features"])
    return GateError.exit_code if has_drifted and options.max_psi is not None else 0


def _summary(found: Mapping[str, Any]) -> str:
    lines = []
    for model in found["models"]:
        lines.append(f"{model['title']}: {model['said']}")
        for one in model["features"]:
            statistic = "" if one["ks"] is None else f"  ks {one['ks']:.3f}"
            lines.append(
                f"  {one['name']:<14} psi {one['psi']:6.3f} of {one['psi_limit']:.3f}{statistic:<10}  {one['verdict']}"
            )
    return "".join(f"{line}\n" for line in lines)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="tfpipe monitor", description="Look at what a service does.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    report = commands.add_parser(
        "report",
        help="compare what a service was asked of late with what its models were trained on",
        description="Write a page that compares what a service was asked of late with what its models were trained on.",
        epilog="exit codes: 0 done; 2 wrong usage, or no service there; 3 a feature drifted beyond --max-psi.",
    )
    report.add_argument("url", metavar="URL", help="http://HOST:PORT")
    report.add_argument("--model", metavar="NAME", help="default: every model")
    report.add_argument(
        "--output", type=Path, default=Path("monitor.html"), metavar="FILE", help="the page (monitor.html)"
    )
    report.add_argument(
        "--max-psi", type=float, metavar="X",
        help="call a feature drifted above X in place of 0.25, and end with 3 where one is",
    )  # fmt: skip
    report.add_argument(
        "--header", type=header, action="append", default=[], metavar="'NAME: VALUE'",
        help="sent along, such as 'Authorization: Bearer KEY'",
    )  # fmt: skip
    report.add_argument("--timeout", type=float, default=10.0, metavar="S", help="longest wait for an answer (10)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
