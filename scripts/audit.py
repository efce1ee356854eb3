"""Writes an SBOM of each set of pins, and looks the pins up among known vulnerabilities. `make audit` runs it.

    scripts/audit.py [--require-database] [--database URL] [--output DIR] [PINS ...]

Exit codes: 0 nothing found, or the database cannot be reached, which the last line says; 3 something was found that
constraints/accepted-vulnerabilities.txt does not accept. With --require-database one that cannot be reached is 1.
"""

import argparse
import datetime
import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PINS = ("serve", "train", "deploy")
_ACCEPTED = re.compile(r"(?P<id>\S+)\s+until\s+(?P<until>\d{4}-\d\d-\d\d)\s+(?P<why>\S.*)")


@dataclass(frozen=True)
class Audit:
    """What looking up one set of pins gave.

    Attributes:
        findings: A line each.
        missed: Pins that the database gave no answer on, with why.
        pins: How many were asked.
    """

    findings: tuple[str, ...]
    missed: tuple[str, ...]
    pins: int


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        accepted = read_accepted(options.accepted.read_text(), today=datetime.date.today())
    except ValueError as error:
        print(f"audit: {options.accepted}: {error}", file=sys.stderr)
        return 2
    options.output.mkdir(parents=True, exist_ok=True)
    audits = []
    for pins in options.pins:
        sbom = options.output / f"{pins.stem}.cdx.json"
        write_sbom(pins, sbom)
        audit = look_up(pins, options.database, accepted)
        audits.append(audit)
        looked_up = audit.pins - len(audit.missed)
        print(f"audit: {pins.name}: {sbom}; {looked_up} of {audit.pins} pins looked up, {len(audit.findings)} findings")
        for line in (*audit.findings, *audit.missed[:1]):
            print(f"  {line}")
    code, last = verdict(audits, require_database=options.require_database)
    print(f"audit: {last}")
    return code


def verdict(audits: Sequence[Audit], *, require_database: bool) -> tuple[int, str]:
    """Exit code and last line."""
    if any(audit.findings for audit in audits):
        return 3, "vulnerabilities were found. Take a version without them, or accept them with a reason and a date."
    if any(audit.missed for audit in audits):
        missing = "NOT DONE: expected an answer of the database of vulnerabilities on every pin, received fewer."
        return (1 if require_database else 0), missing
    return 0, "nothing found"


def read_accepted(text: str, *, today: datetime.date) -> dict[str, str]:
    """Reasons by the IDs that are accepted today.

    Raises:
        ValueError: A line that is not as the head of the file says.
    """
    accepted = {}
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        read = _ACCEPTED.fullmatch(line.strip())
        if read is None:
            raise ValueError(f"expected `ID until YYYY-MM-DD why`, received {line!r}.")
        if today < datetime.date.fromisoformat(read["until"]):
            accepted[read["id"]] = read["why"]
    return accepted


def write_sbom(pins: Path, sbom: Path) -> None:
    """Write a set of pins as CycloneDX 1.6 in JSON, the same for the same pins.

    Raises:
        subprocess.CalledProcessError: The file of pins cannot be read.
    """
    options = ["--pyproject", str(ROOT / "pyproject.toml"), "--output-reproducible", "--no-validate", "-o", str(sbom)]
    _tool("cyclonedx-py", "requirements", *options, str(pins)).check_returncode()


def look_up(pins: Path, database: str | None, accepted: Mapping[str, str]) -> Audit:
    """Ask the database of vulnerabilities about each pin.

    Args:
        pins: The file.
        database: URL of one that answers as OSV does; None: OSV.
        accepted: IDs that are no finding.
    """
    url = ["--osv-url", database] if database else []
    done = _tool(
        "pip-audit", "--requirement", str(pins), "--no-deps", "--disable-pip", "--progress-spinner", "off",
        "--vulnerability-service", "osv", *url, "--format", "json", "--desc", "off", "--aliases", "on",
    )  # fmt: skip
    names = [line.split()[0] for line in pins.read_text().splitlines() if line.strip() and not line.startswith("#")]
    try:
        answers = json.loads(done.stdout)["dependencies"]
    except ValueError:
        reason = (done.stderr.strip() or "no reason given").splitlines()[-1][:200]
        return Audit((), tuple(f"{name}: {reason}" for name in names), len(names))
    findings = []
    for answer in answers:
        for known in answer.get("vulns", ()):
            if accepted.keys().isdisjoint({known["id"], *known["aliases"]}):
                mended = ", ".join(known["fix_versions"]) or "no version"
                findings.append(f"{answer['name']} {answer['version']}: {known['id']}; mended in {mended}")
    missed = [f"{answer['name']}: {answer['skip_reason']}" for answer in answers if "skip_reason" in answer]
    return Audit(tuple(findings), tuple(missed), len(answers))


def _tool(name: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    # Beside the interpreter that runs this: one environment has all three.
    program = Path(sys.executable).parent / name
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/audit.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pins", nargs="*", type=Path, metavar="PINS", help="default: those of serving, training, tools")
    parser.add_argument("--require-database", action="store_true", help="fail where it cannot be reached")
    parser.add_argument("--database", metavar="URL", help="another database than OSV, that answers as it does")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "sbom", help="folder of the SBOMs")
    parser.add_argument("--accepted", type=Path, default=ROOT / "constraints" / "accepted-vulnerabilities.txt")
    parser.set_defaults(pins=[ROOT / "constraints" / f"{name}.txt" for name in PINS])
    return parser


if __name__ == "__main__":
    sys.exit(main())
