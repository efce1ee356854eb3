"""The load generator in C, compiled where it is needed and kept on a core of its own."""

import json
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SERVER_CORE, GENERATOR_CORE = 0, 1
_SOURCE = Path(__file__).with_name("load.c")
_BUILD = Path("build/benchmarks")
# Above it the generator may have been the limit.
_MOST_BUSY = 0.9


@dataclass(frozen=True)
class Loaded:
    """What a load met.

    Attributes:
        throughput: Requests answered with 2xx, a second.
        p50_ms: Latency of those, as the next ones.
        max_ms: The longest.
        statuses: Requests by status; "broken" where the connection was lost.
        unanswered: Of an open loop, those that had no answer at the end.
    """

    throughput: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    statuses: Mapping[str, int]
    unanswered: int

    def __str__(self) -> str:
        latencies = f"p50 {self.p50_ms:.2f}, p95 {self.p95_ms:.2f}, p99 {self.p99_ms:.2f} ms"
        return f"{self.throughput:,.1f}/s, {latencies}, {self.failed} failed"

    @property
    def failed(self) -> int:
        """Requests that had no 2xx."""
        refused = sum(count for status, count in self.statuses.items() if not status.startswith("2"))
        return refused + self.unanswered


def send_load(
    port: int,
    requests: Sequence[bytes],
    *,
    connections: int,
    seconds: float,
    warm_up_s: float = 1.0,
    rate: float = 0.0,
) -> Loaded:
    """Send whole requests in turn to a server on 127.0.0.1.

    Args:
        port: The server's.
        requests: Heads and bodies.
        connections: Most of them at once.
        seconds: Time that counts.
        warm_up_s: Time before.
        rate: Requests a second, at random moments; 0: as many as are answered.

    Raises:
        RuntimeError: Nothing was answered, or the generator failed or was too busy for its figures to mean anything.
    """
    with tempfile.TemporaryDirectory(prefix="tfpipe-load-") as name:
        files = []
        for index, request in enumerate(requests):
            files.append(Path(name) / str(index))
            files[-1].write_bytes(request)
        command = ["taskset", "-c", str(GENERATOR_CORE), str(_program()), "127.0.0.1", str(port), str(connections)]
        command += [str(warm_up_s), str(seconds), str(rate), *map(str, files)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=warm_up_s + seconds + 60, check=False)
    if done.returncode:
        raise RuntimeError(f"load: {done.stderr.strip()}")
    found: dict[str, Any] = json.loads(done.stdout)
    if found["busy_share"] > _MOST_BUSY:
        raise RuntimeError(f"load: the generator itself was the limit: {found}")
    if not found["answered"]:
        raise RuntimeError(f"load: expected answers, received {found}")
    return Loaded(
        found["throughput"],
        found["p50_ms"],
        found["p95_ms"],
        found["p99_ms"],
        found["max_ms"],
        found["statuses"],
        found["unanswered"],
    )


def _program() -> Path:
    """The program; compiled if its source is newer."""
    program = _BUILD / "load"
    if not program.exists() or program.stat().st_mtime < _SOURCE.stat().st_mtime:
        _BUILD.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cc", "-O2", "-o", str(program), str(_SOURCE), "-lm"], check=True)
    return program
