"""A request as every route sees it."""

import os
import re
import time
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field

from starlette.types import Scope

from serving.deployment import Deployment
from serving.errors import InvalidRequestError
from serving.http_protocol import Client, client_of
from serving.keys import ANYBODY, Caller

_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_ID_CHARS, _IDS_AT_ONCE = 32, 256


@dataclass(slots=True)
class Request:
    """What is known of a request before its body is read, and which version it came to.

    Attributes:
        id: X-Request-ID as the client sent it, else made here.
        method: "POST", ...
        path: Without the query.
        headers: By lower-case name; the last of several.
        query: Raw query string.
        started_s: `time.monotonic()` of its arrival.
        deployment: The version that answers it, once that is known.
        is_routed: Whether chance or its key gave it that version, which may so be compared with others: it named none,
            and this one is no fallback.
        stage_s: Seconds by stage, in their order; who answers it fills it in, for metrics and traces.
        caller: Who asks, once that is known.
        client: Who waits for the answer; None on another server than ours.
    """

    id: str
    method: str
    path: str
    headers: Mapping[bytes, bytes]
    query: bytes
    started_s: float = field(default_factory=time.monotonic)
    deployment: Deployment | None = None
    is_routed: bool = False
    stage_s: MutableMapping[str, float] = field(default_factory=dict)
    caller: Caller = ANYBODY
    client: Client | None = None

    @classmethod
    def of(cls, scope: Scope) -> "Request":
        """The request of an ASGI scope."""
        headers = dict(scope["headers"])
        request = cls(given_id(headers) or next_id(), scope["method"], scope["path"], headers, scope["query_string"])
        request.client = client_of(scope)
        return request

    def check_id(self) -> None:
        """Refuse an X-Request-ID that could not be used, rather than answer under another.

        Raises:
            InvalidRequestError: Longer than 128 characters, or with other than visible ASCII.
        """
        given = self.headers.get(b"x-request-id", b"")
        if given and given.decode("latin-1") != self.id:
            raise InvalidRequestError(
                f"X-Request-ID: expected 1 to 128 visible ASCII characters, received {given[:128]!r}.",
                header="X-Request-ID",
            )


def _made() -> Iterator[str]:
    # Many at a time: each call of the system costs more than all the rest of an id.
    while True:
        drawn = os.urandom(_ID_CHARS // 2 * _IDS_AT_ONCE).hex()
        for start in range(0, len(drawn), _ID_CHARS):
            yield drawn[start : start + _ID_CHARS]


_ids = _made()


def given_id(headers: Mapping[bytes, bytes]) -> str | None:
    """X-Request-ID as the client sent it; None where it sent none, or one that cannot be used.

    Args:
        headers: By lower-case name.
    """
    given = headers.get(b"x-request-id")
    return None if given is None or _REQUEST_ID.fullmatch(given) is None else given.decode("ascii")


def next_id() -> str:
    """An id for a request whose client gave none."""
    return next(_ids)
