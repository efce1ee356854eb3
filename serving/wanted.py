"""Which model a request names, in whatever protocol."""

from typing import NamedTuple


class Wanted(NamedTuple):
    """Names in a request; where all are None, routing decides.

    Attributes:
        name: Model; None: the only one that is served.
        version: Its version; None: the one that routing gives.
        alias: Likewise, e.g. "champion".
    """

    name: str | None = None
    version: str | None = None
    alias: str | None = None
