"""What a load is sent through, whatever the protocol."""

from dataclasses import dataclass
from typing import Protocol

# Outcomes that no server gave.
TIMEOUT, UNREACHABLE, BROKEN = "timeout", "unreachable", "connection lost"
# What a server says when it refuses, as kept for the report.
_KEPT_BODY_CHARS = 500


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of one request.

    Attributes:
        outcome: A status ("200", "UNAVAILABLE"), or TIMEOUT, UNREACHABLE or BROKEN.
        ok: Whether it was answered as hoped.
        body: What the server said; of HTTP as sent, of gRPC the details of an error.
    """

    outcome: str
    ok: bool
    body: bytes = b""

    def excerpt(self) -> str:
        """The body for people, cut where it is long."""
        text = self.body.decode("utf-8", "replace").strip()
        return text if len(text) <= _KEPT_BODY_CHARS else f"{text[:_KEPT_BODY_CHARS]}..."


class Channel(Protocol):
    """One connection, which opens when it is first used and again after it broke; one request at a time."""

    async def exchange(self, request: bytes) -> Reply:
        """Send a prepared request and wait for the whole answer."""
        ...

    def close(self) -> None:
        """Close what is open."""
        ...
