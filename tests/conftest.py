"""What holds for every test."""

from pathlib import Path

import pytest
from hypothesis import settings

# Speed is checked by benchmarks: on a busy machine an example may take its time. A test that fails must fail again.
settings.register_profile("tfpipe", deadline=None, derandomize=True)
settings.load_profile("tfpipe")

TESTS = Path(__file__).parent
# Their fixtures last a session: a bundle is made once.
ONE_GROUP = ("convert", "serving")
# Tests that start four workers, twice as many as a small machine has cores; marked so, they run one after the other.
WORKERS = "workers"


def pytest_collection_modifyitems(items):
    """`make test` runs two processes of tests: a file goes to one of them, the tests of many workers first."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            place = item.path.relative_to(TESTS)
            item.add_marker(pytest.mark.xdist_group(place.parts[0] if place.parts[0] in ONE_GROUP else str(place)))
    items.sort(key=lambda item: item.get_closest_marker("xdist_group").args[0] != WORKERS)
