"""What holds for every test."""

import gc
from pathlib import PurePosixPath

import pytest
from hypothesis import settings
from xdist.scheduler import LoadScopeScheduling

# Speed is checked by benchmarks: on a busy machine an example may take its time. A test that fails must fail again.
settings.register_profile("tfpipe", deadline=None, derandomize=True)
settings.load_profile("tfpipe")

# Tests that start up to four workers, twice as many as a small machine has cores, run one after the other.
MANY_WORKERS = frozenset({
    "tests/test_on_workers.py", "tests/test_end_to_end.py", "tests/test_end_to_end_texts.py",
    "tests/training/test_elastic.py", "tests/training/test_several_hosts.py",
})  # fmt: skip
# Their fixtures last a session: a bundle is made once.
ONE_GROUP = ("tests/convert", "tests/serving")


class Groups(LoadScopeScheduling):
    """Gives each of the processes of `make test` whole groups of tests."""

    def _split_scope(self, nodeid):
        return group(nodeid)


def group(nodeid):
    """Tests of one group run one after the other: those of a file, by default."""
    file = PurePosixPath(nodeid.partition("::")[0])
    if str(file) in MANY_WORKERS:
        return "many workers"
    return next((folder for folder in ONE_GROUP if file.is_relative_to(folder)), str(file))


def pytest_xdist_make_scheduler(config, log):
    return Groups(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    # TensorFlow and the like are half a million objects that stay: while they are imported, looking for garbage among
    # them takes a sixth of the time, and later each full look a quarter of a second.
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    # What takes longest begins first.
    items.sort(key=lambda item: group(item.nodeid) != "many workers")
