"""Golden samples replayed while nobody asks anything: does this machine still answer as training did?"""

import asyncio
import logging
from collections.abc import Awaitable, Callable

logger = logging.getLogger(__name__)

PERIOD_S = 60.0
# How often to look whether nobody asks, once a period is over.
_LOOK_S = 1.0


async def replay_when_idle(
    replay: Callable[[], Awaitable[None]],
    is_idle: Callable[[], bool],
    *,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Replay at most once a minute, and only while nothing waits or runs; until it is cancelled.

    A replay that fails is logged and tried again a minute later: whether to go on serving is for whoever watches
    `tfpipe_golden_max_abs_diff` to say.

    Args:
        replay: Replays the golden samples of every model, and records the difference.
        is_idle: Whether no request is in flight.
        sleep: Waits for seconds.
    """
    while True:
        await sleep(PERIOD_S)
        while not is_idle():
            await sleep(_LOOK_S)
        try:
            await replay()
        # The outermost edge of this task: it must outlive whatever a model does.
        except Exception:
            logger.exception("golden samples could not be replayed")
