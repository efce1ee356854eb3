"""Tests that run on several Horovod workers at once; `tests/test_on_workers.py` starts them.

Every rank draws the same examples and gathers the verdicts of all before it asserts: a rank that failed alone would
leave the others waiting in the next collective.
"""

import os
import traceback
from collections.abc import Callable

import pytest

from tfpipe.distributed import World, join

# Outside horovodrun there are no workers to test on.
collect_ignore_glob = [] if "HOROVOD_SIZE" in os.environ else ["test_*.py"]


@pytest.fixture(scope="session")
def world() -> World:
    return join()


@pytest.fixture
def agreed(world: World) -> Callable[[Callable[[], None]], None]:
    """Run the assertions of one example on every rank and fail on all where one failed."""

    def check(assertions: Callable[[], None]) -> None:
        failure = None
        try:
            assertions()
        # Ranks must meet again, whatever happened to one of them.
        except Exception:
            failure = traceback.format_exc()
        failures = [f"rank {rank}: {text}" for rank, text in enumerate(world.gather_objects(failure)) if text]
        assert not failures, "\n".join(failures)

    return check
