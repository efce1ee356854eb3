"""Where a bundle is made: beside its place, and renamed into it once it is whole."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from tfpipe.convert import measure, report
from tfpipe.convert.report_page import render_page
from tfpipe.core import atomic
from tfpipe.core.bundle import MANIFEST
from tfpipe.core.errors import ConfigError, GateError
from tfpipe.provenance import library_versions, processor


def check_target(target: Path) -> None:
    """Refuse a place for a bundle that holds something else, or cannot be written.

    Raises:
        ConfigError: It does, or cannot.
    """
    if target.name in ("", ".."):
        # It is made beside its place and renamed into it: not where one stands, nor where all else hangs.
        raise ConfigError(f"--output: expected a folder with a name of its own, received {str(target)!r}.")
    if target.exists() and not (target / MANIFEST).is_file() and not _is_empty_folder(target):
        raise ConfigError(
            f"--output: expected a new folder or a bundle to replace, found other files at {str(target)!r}."
        )
    atomic.writable_folder(target.parent, where="--output")


@contextlib.contextmanager
def held(target: Path) -> Iterator[None]:
    """Take the place of a bundle for one conversion, until it is registered too: two would register a mixture.

    Raises:
        ConfigError: Another process is converting to it, or see `check_target`.
    """
    check_target(target)
    path = target.with_name(f".{target.name}.lock")
    while True:
        with open(path, "w", encoding="utf-8") as lock:
            busy = f"--output: another conversion writes {str(target)!r}. Wait for it, or choose another folder."
            atomic.hold(lock, otherwise=busy)
            # Its holder may have removed it since it was opened: then it keeps nobody out.
            if not _is_file_of(path, lock.fileno()):
                continue
            try:
                yield
            finally:
                path.unlink(missing_ok=True)
            return


def stage(build: Callable[[Path], None], findings: report.Findings, target: Path) -> None:
    """Have a bundle built in a temporary folder and rename it into place; a failed gate leaves the report alone.

    Args:
        build: Writes everything into an empty folder.
        findings: Which it fills.
        target: The bundle's folder.

    Raises:
        ConfigError: `target` cannot be written, or holds something else than a bundle.
        GateError: A limit or bound was missed; names the report.
    """
    check_target(target)
    failed_report, failed_page = (target.with_name(f"{target.name}-report.{kind}") for kind in ("md", "html"))
    try:
        with atomic.staged_folder(target, replace=True) as staging:
            build(staging)
    except GateError as error:
        findings.missed = findings.missed or [str(error)]
        text = report.render(findings, usage=())
        atomic.write_file(failed_report, text)
        atomic.write_file(failed_page, render_page(findings, text))
        missed = " ".join(findings.missed)
        raise GateError(f"{findings.title}, {findings.precision}: {missed} The figures: {failed_report}") from error
    # What an earlier attempt at the same bundle left.
    for path in (failed_report, failed_page):
        path.unlink(missing_ok=True)


def measured_on() -> dict[str, Any]:
    """The machine and the libraries that latency figures belong to."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "provider": "cpu",
        "threads": measure.LATENCY_THREADS,
        "library_versions": library_versions(),
    }


def _is_empty_folder(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _is_file_of(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
