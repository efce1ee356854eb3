"""What `validate` found, and its form as JSON."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tfpipe import __version__
from tfpipe.data.findings import DataSet, Finding
from tfpipe.data.inspection import Inspection

REPORT_FORMAT_VERSION = 1


@dataclass(frozen=True)
class ValidationReport:
    """What was found.

    Attributes:
        path: The training data, as it was given.
        created: UTC, ISO 8601.
        limits: What was measured against; a dataclass.
        data: Every sample's inspection, the class names, the files left out.
        findings: What is wrong, errors first.
        summaries: What is known about each split, as JSON has it.
    """

    path: str
    created: str
    limits: Any
    data: DataSet
    findings: tuple[Finding, ...]
    summaries: Mapping[str, dict[str, Any]]

    @property
    def errors(self) -> tuple[Finding, ...]:
        """Findings that must be dealt with before training."""
        return tuple(finding for finding in self.findings if finding.severity == "error")

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """Findings worth knowing."""
        return tuple(finding for finding in self.findings if finding.severity == "warning")

    @property
    def passed(self) -> bool:
        """Whether there is no error."""
        return not self.errors

    def to_dict(self) -> dict[str, Any]:
        """The content of validation.json."""
        return {
            "format_version": REPORT_FORMAT_VERSION,
            "tfpipe_version": __version__,
            "created": self.created,
            "path": self.path,
            "passed": self.passed,
            "num_errors": len(self.errors),
            "num_warnings": len(self.warnings),
            "limits": asdict(self.limits),
            "labels": list(self.data.labels),
            "splits": dict(self.summaries),
            "findings": [_finding_to_dict(finding) for finding in self.findings],
            "ignored_files": sorted(self.data.ignored),
        }


def image_summary(samples: Sequence[Inspection]) -> dict[str, Any]:
    """What is known about one split of images, as JSON has it."""
    readable = [sample for sample in samples if not sample.fault]
    return {
        "samples": len(samples),
        "readable": len(readable),
        "classes": dict(Counter(sample.label for sample in samples)),
        "formats": dict(Counter(sample.format for sample in readable).most_common()),
        "modes": dict(Counter(sample.mode for sample in readable).most_common()),
        "turned_by_exif": sum(sample.orientation != 1 for sample in readable),
        "height": value_range([sample.height for sample in readable]),
        "width": value_range([sample.width for sample in readable]),
    }


def value_range(values: Sequence[int]) -> dict[str, float] | None:
    """Least, median and largest; None where there is nothing."""
    if not values:
        return None
    return {"min": min(values), "median": float(np.median(values)), "max": max(values)}


def _finding_to_dict(finding: Finding) -> dict[str, Any]:
    return {
        "kind": finding.kind,
        "severity": finding.severity,
        "message": finding.message,
        "advice": finding.advice,
        "samples": [
            {
                "split": sample.split,
                "id": sample.identifier,
                "label": sample.label,
                "detail": sample.detail,
                # Samples of one group hold the same picture.
                "group": number,
            }
            for number, group in enumerate(finding.groups)
            for sample in group
        ],
    }
