"""What a load has to hold, e.g. "p95<50ms, errors<1%"."""

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from tfpipe.bench.record import Record
from tfpipe.core.errors import ConfigError

_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_LATENCY = re.compile(r"p(\d{1,2}(?:\.\d+)?)\s*<\s*(\d+(?:\.\d+)?)\s*(us|ms|s)")
_ERRORS = re.compile(r"errors\s*<\s*(\d+(?:\.\d+)?)\s*%")
_DEFAULT_ERRORS = 0.01
# So many requests lie above a quantile before it means something.
_ABOVE = 20


@dataclass(frozen=True)
class Criterion:
    """Limits that must all hold.

    Attributes:
        text: As given.
        latencies: Quantile (0..1) and the seconds that it has to stay below.
        errors: Share of requests, 0..1, that may go unanswered or be refused, exclusive.
    """

    text: str
    latencies: tuple[tuple[float, float], ...]
    errors: float = _DEFAULT_ERRORS

    @property
    def least_requests(self) -> int:
        """Fewest requests of which it can be told."""
        return math.ceil(_ABOVE / (1 - max(quantile for quantile, _ in self.latencies)))

    def judge(self, record: Record) -> "Verdict":
        """Whether a turn held it; a request that was not answered counts as one that took for ever."""
        failed = record.sent - record.answered
        latencies_s = np.append(record.latencies_s, np.full(failed, np.inf))
        problems = []
        reached: dict[str, float] = {}
        for quantile, limit_s in self.latencies:
            value_s = float(np.quantile(latencies_s, quantile, method="inverted_cdf")) if record.sent else math.inf
            reached[f"p{quantile * 100:g}"] = value_s
            if not value_s < limit_s:
                problems.append(f"p{quantile * 100:g} {value_s * 1e3:.3g} ms")
        share = failed / record.sent if record.sent else 1.0
        if not share < self.errors:
            problems.append(f"errors {share:.2%}")
        return Verdict(not problems, reached, share, ", ".join(problems))


@dataclass(frozen=True)
class Verdict:
    """How a turn did.

    Attributes:
        holds: Whether every limit held.
        reached_s: Seconds by quantile's name; infinite where too many were not answered.
        errors: Share of requests that were not answered.
        problem: What did not hold; "" where all did.
    """

    holds: bool
    reached_s: dict[str, float]
    errors: float
    problem: str

    def to_dict(self) -> dict[str, Any]:
        """JSON form, in milliseconds; null for infinity."""
        reached = {name: value * 1e3 if math.isfinite(value) else None for name, value in self.reached_s.items()}
        return {"holds": self.holds, "latency_ms": reached, "errors": self.errors, "problem": self.problem}


def parse_criterion(text: str) -> Criterion:
    """Read limits, separated by commas.

    Raises:
        ConfigError: One of another form, or no latency among them.
    """
    latencies, errors = [], _DEFAULT_ERRORS
    for part in text.split(","):
        if found := _LATENCY.fullmatch(part.strip()):
            latencies.append((float(found[1]) / 100, float(found[2]) * _UNITS[found[3]]))
        elif found := _ERRORS.fullmatch(part.strip()):
            errors = float(found[1]) / 100
        else:
            raise ConfigError(f"--search: expected limits such as 'p95<50ms, errors<1%', received {part.strip()!r}.")
    if not latencies:
        raise ConfigError(f"--search: expected a limit of latency such as 'p95<50ms', received {text!r}.")
    return Criterion(text, tuple(latencies), errors)
