"""What a conversion tells while it works: each part, with its time."""

import contextlib
import logging
import time
from collections.abc import Iterator

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def phase(what: str) -> Iterator[None]:
    """Say how long a part took, once it is done."""
    started = time.monotonic()
    yield
    logger.info("%s: %.1f s", what, time.monotonic() - started)
