"""Waiting until a moment, to some microseconds rather than the event loop's millisecond."""

import asyncio
import contextlib
import ctypes
import functools
import os
import sys
import time
from collections.abc import Iterator

# Linux, <sys/timerfd.h>; Python has it from 3.13 on.
_CLOCK_MONOTONIC, _TFD_TIMER_ABSTIME = 1, 1


class _Timespec(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("it_interval", _Timespec), ("it_value", _Timespec))


class Alarm:
    """Rings at a moment of `time.monotonic()`."""

    def __init__(self, descriptor: int | None) -> None:
        """Use a descriptor of timerfd_create, or the event loop's own timers."""
        self._descriptor = descriptor
        self._rung = asyncio.Event()

    async def wait_until(self, moment_s: float) -> None:
        """Return at `moment_s` of `time.monotonic()`, soon where it has passed."""
        if self._descriptor is None:
            await asyncio.sleep(moment_s - time.monotonic())
        else:
            self._rung.clear()
            _set(self._descriptor, moment_s)
            await self._rung.wait()

    def ring(self) -> None:
        """What the event loop calls when the descriptor can be read."""
        if self._descriptor is not None:
            with contextlib.suppress(BlockingIOError):
                os.read(self._descriptor, 8)
        self._rung.set()


@contextlib.contextmanager
def alarm() -> Iterator[Alarm]:
    """An alarm of the running loop; elsewhere than on Linux, one of the loop's own resolution."""
    if not sys.platform.startswith("linux"):
        yield Alarm(None)
        return
    descriptor = _libc().timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "timerfd_create")
    loop = asyncio.get_running_loop()
    made = Alarm(descriptor)
    loop.add_reader(descriptor, made.ring)
    try:
        yield made
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _set(descriptor: int, moment_s: float) -> None:
    # 0 would disarm it.
    nanoseconds = max(1, round(moment_s * 1e9))
    timer = _Itimerspec(_Timespec(0, 0), _Timespec(nanoseconds // 10**9, nanoseconds % 10**9))
    if _libc().timerfd_settime(descriptor, _TFD_TIMER_ABSTIME, ctypes.byref(timer), None):
        raise OSError(ctypes.get_errno(), "timerfd_settime")
