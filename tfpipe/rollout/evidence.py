"""What services have counted of two versions, from their metrics: sums that survive a service that starts again.

Only requests count to which routing gave their version: those that name one are of other clients, and of other inputs.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tfpipe.core.sequential import Evidence, Tally

Counts = dict[str, float]
"""Counts of one version: requests, errors, right, wrong, and within/SECONDS."""

_LATENCY = "tfpipe_routed_latency_seconds"


def read_counts(exposition: str, model: str) -> dict[str, Counts]:
    """Counts by version of a model, in the exposition of a service."""
    counts: dict[str, Counts] = {}
    for name, labels, value in _samples(exposition):
        if labels.get("model") != model:
            continue
        mine = counts.setdefault(labels.get("version", ""), {})
        for key in _keys(name, labels):
            mine[key] = mine.get(key, 0.0) + value
    return {version: mine for version, mine in counts.items() if mine}


@dataclass
class Collected:
    """Counts since the beginning of a comparison, over all services.

    Attributes:
        sums: By version.
        last: By address of a service, then version: what it said last; its counts before that were taken in.
    """

    sums: dict[str, Counts] = field(default_factory=dict)
    last: dict[str, dict[str, Counts]] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Collected":
        """Read what `to_dict` gave; an empty mapping is a beginning."""
        return cls(dict(values.get("sums", {})), dict(values.get("last", {})))

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {"sums": self.sums, "last": self.last}

    def add(self, url: str, reading: Mapping[str, Counts]) -> None:
        """Take in what a service has counted since it was read last; the first reading is where it begins."""
        before = self.last.get(url)
        self.last[url] = {version: dict(counts) for version, counts in reading.items()}
        if before is None:
            return
        for version, counts in reading.items():
            earlier = before.get(version, {})
            # A count that shrank: the service has started again, from 0.
            started_again = any(value < earlier.get(key, 0.0) for key, value in counts.items())
            sums = self.sums.setdefault(version, {})
            for key, value in counts.items():
                sums[key] = sums.get(key, 0.0) + value - (0.0 if started_again else earlier.get(key, 0.0))

    def of(self, version: str) -> Evidence:
        """The counts of a version, for `tfpipe.core.sequential.judge`."""
        counts = self.sums.get(version, {})
        requests = counts.get("requests", 0.0)
        within = {
            float(key.removeprefix("within/")): value for key, value in counts.items() if key.startswith("within/")
        }
        right, wrong = counts.get("right", 0.0), counts.get("wrong", 0.0)
        return Evidence(
            errors=Tally(counts.get("errors", 0.0), requests),
            slower={seconds: Tally(requests - value, requests) for seconds, value in within.items()},
            wrong=Tally(wrong, right + wrong),
        )


def _samples(exposition: str) -> Iterable[tuple[str, Mapping[str, str], float]]:
    # A quarter of the time that the command takes to start, and a rollback needs no metrics.
    from prometheus_client.parser import text_string_to_metric_families

    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            yield sample.name, sample.labels, sample.value


def _keys(name: str, labels: Mapping[str, str]) -> list[str]:
    if name == f"{_LATENCY}_count":
        return ["requests", "errors"] if labels.get("outcome") == "failed" else ["requests"]
    if name == "tfpipe_feedback_total" and labels.get("routed") == "true":
        return ["right" if labels.get("correct") == "true" else "wrong"]
    if name == f"{_LATENCY}_bucket" and labels["le"] != "+Inf":
        return [f"within/{float(labels['le']):g}"]
    return []
