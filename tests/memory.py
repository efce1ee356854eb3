"""How much memory something takes."""

import contextlib
import threading
from collections.abc import Iterator

import psutil


@contextlib.contextmanager
def peak_of_memory() -> Iterator[list[int]]:
    """Bytes by which this process grew at most, as the one entry of a list."""
    process, grown, is_over = psutil.Process(), [0], threading.Event()
    before = process.memory_info().rss

    def watch() -> None:
        while not is_over.wait(0.005):
            grown[0] = max(grown[0], process.memory_info().rss - before)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield grown
    finally:
        is_over.set()
        watching.join()
