"""Where the body of a request is taken apart."""

from collections.abc import Callable
from typing import TypeVar

from serving.service import Service

# In the event loop, as a thread would cost more; what is larger must not keep all other requests waiting.
_SMALL_BYTES = 64 * 1024

T = TypeVar("T")


async def work_on(body: bytes, function: Callable[[], T], service: Service) -> T:
    """What a function makes of a body, in one of the service's threads if it is large."""
    return function() if len(body) <= _SMALL_BYTES else await service.run(function)
