"""Says which worker the others wait for, and where in the program it is.

Horovod 0.28 has such a check of its own (HOROVOD_STALL_CHECK_TIME_SECONDS); over Gloo it says nothing.
"""

import contextlib
import json
import logging
import sys
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tfpipe import launcher
from tfpipe.core.errors import TfpipeError
from tfpipe.distributed import World, host_name, launcher_server
from tfpipe.training.observers import Observer, StepRecord

logger = logging.getLogger(__name__)

# In the time that one is patient.
_LOOKS = 4
_LAST_LOOK_S = 1.0
# In files of these folders a program waits for TensorFlow or Horovod; then the innermost of ours says for what.
# Only where packages are installed (site-packages, dist-packages): a user's own folder may be called tensorflow too.
_LIBRARIES = tuple(f"-packages/{name}/" for name in ("tensorflow", "horovod", "keras"))
_STEP = "_train_epoch"
_COLLECTIVES = "/tfpipe/distributed.py"
_INPUT = "_timed"


@dataclass(frozen=True)
class Report:
    """What a worker tells the chief.

    Attributes:
        host: Its machine.
        looks: Reports before this one, over all of them; one that does not grow is of a process that does not run.
        step: Updates done.
        idle_s: Seconds since the last of them.
        waits: Whether it waits for the other workers.
        place: Where in the program it is.
    """

    host: str
    looks: int
    step: int
    idle_s: float
    waits: bool
    place: str


class StallWatch(Observer):
    """Warns on the chief, where some workers wait for others that do not come.

    A thread of each worker tells the launcher's key-value store, a few times in `patience_s`, where the worker is; that
    of the chief reads what all told when no step has ended for so long.

    Args:
        world: The workers.
        patience_s: Seconds without a step.
    """

    def __init__(self, world: World, *, patience_s: float) -> None:
        self._world, self._patience_s = world, patience_s
        self._step, self._since = 0, time.monotonic()
        self._watched = threading.get_ident()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "StallWatch":
        server = launcher_server()
        if self._world.size > 1 and server is not None:
            self._thread = threading.Thread(target=self._watch, args=(server,), daemon=True, name="stall watch")
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread is not None:
            # Not for long: a launcher that no longer answers must not hold up the end of a run.
            self._thread.join(_LAST_LOOK_S)

    def on_train_begin(self) -> None:
        self._since = time.monotonic()

    def on_step(self, record: StepRecord) -> None:
        self._step, self._since = record.step, time.monotonic()

    def _watch(self, server: tuple[str, int]) -> None:
        looks, told_s = 0, 0.0
        before: dict[int, Report] = {}
        while not self._ended.wait(self._patience_s / _LOOKS):
            looks += 1
            # The launcher may be gone, or busy: what ends a run is seen elsewhere.
            with contextlib.suppress(TfpipeError):
                mine = self._report(looks)
                launcher.put(server, f"stall-{self._world.rank}", json.dumps(asdict(mine)))
                if not self._world.is_chief or mine.idle_s < self._patience_s:
                    told_s, before = 0.0, {}
                    continue
                now = self._everybodys(server)
                text = describe(before, now, size=self._world.size) if before else None
                before = now
                # Ever more seldom.
                if text is not None and mine.idle_s >= 2 * told_s:
                    told_s = mine.idle_s
                    logger.warning("%s", text)

    def _everybodys(self, server: tuple[str, int]) -> dict[int, Report]:
        values = {rank: launcher.get(server, f"stall-{rank}") for rank in range(self._world.size)}
        return {rank: Report(**json.loads(value)) for rank, value in values.items() if value is not None}

    def _report(self, looks: int) -> Report:
        waits, place = whereabouts(traceback.extract_stack(sys._current_frames().get(self._watched)))
        return Report(host_name(), looks, self._step, time.monotonic() - self._since, waits, place)


def whereabouts(stack: Sequence[Any]) -> tuple[bool, str]:
    """Whether a program waits for other workers, and where it is.

    Args:
        stack: Frames with filename, lineno and name, the innermost last.
    """
    own = [frame for frame in stack if not any(folder in frame.filename for folder in _LIBRARIES)]
    if not own:
        return False, "unknown"
    inner = own[-1]
    in_library = stack[-1] is not inner
    if in_library and inner.name == _INPUT:
        return False, "reading its data"
    waits = inner.name == _STEP or inner.filename.endswith(_COLLECTIVES)
    return in_library and waits, f"{inner.filename}:{inner.lineno} in {inner.name}"


def describe(before: Mapping[int, Report], now: Mapping[int, Report], *, size: int) -> str | None:
    """One sentence on who waits for whom; None where nobody is waited for.

    Args:
        before: What the workers told at an earlier look, by rank.
        now: What they told last.
        size: Number of workers.
    """
    silent = [
        rank for rank in range(size) if rank not in now or (rank in before and before[rank].looks == now[rank].looks)
    ]
    waiting = [rank for rank, report in now.items() if report.waits and rank not in silent]
    busy = [rank for rank, report in now.items() if not report.waits and rank not in silent]
    if not waiting or not (silent or busy):
        return None
    first = now[waiting[0]]
    missing = [f"worker {rank} ({now[rank].host}) is at {now[rank].place}" for rank in busy]
    missing += [f"worker {rank}{f' ({now[rank].host})' if rank in now else ''} does not answer" for rank in silent]
    return (
        f"step {first.step + 1}: worker(s) {', '.join(map(str, waiting))} have waited {first.idle_s:.0f} s for the "
        f"gradients of the others: {'; '.join(missing)}."
    )
