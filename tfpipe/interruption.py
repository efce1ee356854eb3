"""Ctrl-C and SIGTERM while a command's modules are imported: one line in place of a traceback.

A command's file calls `end_at_signals` before its other imports, `run_command` or the service's loop takes over.
"""

import os
import signal
from types import FrameType
from typing import Any

INTERRUPTED = "stopped: interrupted before it was done; start it again."
# A service that a signal ends has done as it was told: 0.
SERVICE_STOPPED = "serving: stopped before it listened."
# core.errors.StoppedError's, whose import would come before what is to be guarded.
STOPPED = 75


def end_at_signals(line: str = INTERRUPTED, exit_code: int = STOPPED) -> dict[int, Any]:
    """Have SIGINT and SIGTERM end the process at once, until other handlers are set.

    For the time before anything begins that has to be cleaned up. An exception will not do there: modules written in C
    make another of it while they are imported.

    Args:
        line: What standard error is told.
        exit_code: Of the process.

    Returns:
        The handlers until then, by signal.
    """

    def end(number: int, frame: FrameType | None) -> None:
        os.write(2, f"{line}\n".encode())
        os._exit(exit_code)

    # A shell's background command does not hear Ctrl-C.
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) is not signal.SIG_IGN]
    return {number: signal.signal(number, end) for number in numbers}
