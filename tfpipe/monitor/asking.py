"""What a running service says of itself."""

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from tfpipe.core.errors import ConfigError

Samples = Mapping[str, list[tuple[Mapping[str, str], float]]]
"""Labels and values by the name of a metric."""


@dataclass(frozen=True)
class Answered:
    """What a service said.

    Attributes:
        drift: Of `GET /drift`.
        metrics: Of `GET /metrics`.
    """

    drift: Mapping[str, Any]
    metrics: Samples


def ask(url: str, headers: Mapping[str, str], *, timeout_s: float) -> Answered:
    """Ask a service how its traffic compares, and what it has counted.

    Args:
        url: Like http://127.0.0.1:8000.
        headers: Sent along.
        timeout_s: For each answer.

    Raises:
        ConfigError: There is no such service, or it refuses.
    """
    try:
        drift = json.loads(_get(f"{url}/drift", headers, timeout_s))
        samples: dict[str, list[tuple[Mapping[str, str], float]]] = {}
        for family in text_string_to_metric_families(_get(f"{url}/metrics", headers, timeout_s).decode()):
            for sample in family.samples:
                samples.setdefault(sample.name, []).append((sample.labels, sample.value))
    except ValueError as error:
        raise ConfigError(f"{url}: expected a service of tfpipe, received something else: {error}.") from error
    if not isinstance(drift, dict) or not isinstance(drift.get("models"), list):
        raise ConfigError(f"{url}/drift: expected the models of a service of tfpipe, received something else.")
    return Answered(drift, samples)


def _get(url: str, headers: Mapping[str, str], timeout_s: float) -> bytes:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=dict(headers)), timeout=timeout_s) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        hint = " Give its key: --header 'Authorization: Bearer KEY'." if error.code in (401, 403) else ""
        raise ConfigError(f"{url}: expected an answer, received status {error.code}.{hint}") from error
    except OSError as error:
        raise ConfigError(f"{url}: expected a service, found none: {getattr(error, 'reason', error)}.") from error
