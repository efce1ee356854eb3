"""What a check found, and how findings are shown."""

import json
import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

Status = Literal["ok", "warning", "failed"]
_SIGNS = {"ok": "ok", "warning": "warn", "failed": "FAIL"}


@dataclass(frozen=True)
class Finding:
    """The result of one check.

    Attributes:
        name: What was checked.
        status: "failed": something needed is missing; "warning": something optional, or that may become a problem.
        found: What is there.
        expected: What should be.
        fix: The command that mends it; empty where nothing needs mending.
    """

    name: str
    status: Status
    found: str
    expected: str = ""
    fix: str = ""


def healthy(findings: Sequence[Finding]) -> bool:
    """Whether nothing that is needed is missing."""
    return all(finding.status != "failed" for finding in findings)


def to_json(parts: Sequence[str], findings: Sequence[Finding]) -> str:
    """For programs: whether all is well, the parts that are installed, and every finding."""
    document = {"ok": healthy(findings), "parts": list(parts), "checks": [asdict(finding) for finding in findings]}
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def to_table(parts: Sequence[str], findings: Sequence[Finding], *, width: int) -> str:
    """For people: one line a check; expectation and remedy below those that are not well.

    Args:
        parts: Installed.
        findings: In order.
        width: Characters of a line.
    """
    name_width = max(len(finding.name) for finding in findings)
    indent = " " * (name_width + 8)
    lines = [f"installed parts: {', '.join(parts) or 'none'}", ""]
    for finding in findings:
        head = f"{_SIGNS[finding.status]:<4}  {finding.name:<{name_width}}  "
        lines += _wrapped(finding.found, head, indent, width)
        if finding.status != "ok":
            lines += _wrapped(f"expected: {finding.expected}", indent, indent + "  ", width) if finding.expected else []
            lines += [f"{indent}mend it: {finding.fix}"] if finding.fix else []
    counts = {status: sum(finding.status == status for finding in findings) for status in _SIGNS}
    lines += ["", f"{counts['ok']} ok, {counts['warning']} warnings, {counts['failed']} failed"]
    return "\n".join(lines) + "\n"


def _wrapped(text: str, head: str, indent: str, width: int) -> list[str]:
    return textwrap.wrap(
        text, max(width, len(indent) + 40), initial_indent=head, subsequent_indent=indent, break_long_words=False
    ) or [head.rstrip()]
