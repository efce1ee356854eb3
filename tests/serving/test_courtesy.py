"""Under more load than can be carried, the event loop's thread waits for its turn."""

import asyncio
import os
import subprocess
import sys
import time
from concurrent.futures import Future

import pytest

from serving.batching import Pace
from serving.courtesy import Courtesy
from serving.cpus import wait_for_turn
from serving.service import Service, in_daemon_thread
from serving.watched import WatchedThreads
from tests.serving.bundles import RED
from tests.serving.plain_http import Request
from tests.serving.servers import app_of, serving
from tests.serving.v2.fast_requests import exchange, request, rows, until

pytestmark = pytest.mark.skipif(
    not hasattr(os, "SCHED_BATCH") or os.sched_getscheduler(0) != os.SCHED_OTHER,
    reason="needs Linux, and a process that nobody has given another policy",
)


# More than is heeded.
MANY, WINDOW_S = 60, 0.5


def policy():
    return os.sched_getscheduler(0)


@pytest.fixture(autouse=True)
def _as_before():
    yield
    wait_for_turn(False)


async def test_the_loop_waits_for_its_turn_until_nothing_is_refused_any_more():
    courtesy = Courtesy(window_s=1.0, least=3)
    for _ in range(3):
        courtesy.refused()
    assert policy() == os.SCHED_OTHER
    await until(lambda: courtesy.is_on)
    for _ in range(25):
        assert policy() == os.SCHED_BATCH
        courtesy.refused()
        await asyncio.sleep(0.1)  # of a load that goes on

    await until(lambda: not courtesy.is_on)
    assert policy() == os.SCHED_OTHER
    for _ in range(3):
        courtesy.refused()
    await until(lambda: courtesy.is_on)


async def test_a_client_with_little_patience_does_not_set_it_off():
    courtesy = Courtesy(window_s=0.2, least=20)
    for _ in range(10):
        courtesy.refused()
        await asyncio.sleep(0.05)
        assert policy() == os.SCHED_OTHER


async def test_threads_that_are_made_meanwhile_do_not(bundle):
    service: Service = app_of(bundle).service
    threads = WatchedThreads("run", timeout_s=None)
    wait_for_turn(True)
    ran: Future[int] = threads.submit(policy)

    assert await service.run(policy) == os.SCHED_OTHER
    assert await asyncio.wrap_future(ran) == os.SCHED_OTHER
    # Versions are loaded in it, and their sessions' threads begin as it is.
    assert await asyncio.wrap_future(in_daemon_thread(policy)) == os.SCHED_OTHER
    assert policy() == os.SCHED_BATCH
    threads.shutdown()
    service.close()


@pytest.mark.parametrize(("chosen", "after"), [("SCHED_OTHER", "SCHED_BATCH"), ("SCHED_IDLE", "SCHED_IDLE")])
def test_a_policy_that_somebody_chose_is_kept(chosen, after):
    program = f"""
import os
os.sched_setscheduler(0, os.{chosen}, os.sched_param(0))
from serving.cpus import wait_for_turn
wait_for_turn(True)
print(os.sched_getscheduler(0) == os.{after})
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["True"]


def too_slow(app):
    """Let the service believe that no answer is in time."""
    (deployment,) = app.service.models
    deployment.batcher.room.pace = Pace()
    deployment.batcher.room.pace.record(1, 1000.0)
    deployment.batcher.room.rows = 1


def is_set_off(app, running, asked):
    """Whether many requests, sent at once on one connection, set it off; and their statuses."""
    statuses = {status for status, _, _ in exchange(running, *[asked] * MANY)}
    ends_s = time.monotonic() + 3 * WINDOW_S
    while not app.service.courtesy.is_on and time.monotonic() < ends_s:
        time.sleep(0.01)  # polls
    return app.service.courtesy.is_on, statuses


@pytest.mark.parametrize("asked", [Request.of_file(RED).encoded(), request(rows(1))], ids=["predict", "fast path"])
def test_whoever_is_refused_for_lack_of_time_sets_it_off(bundle, asked):
    app = app_of(bundle)
    with serving(app) as running:
        too_slow(app)
        assert is_set_off(app, running, asked) == (True, {504})


def test_bad_input_does_not(bundle):
    app = app_of(bundle)
    with serving(app) as running:
        assert is_set_off(app, running, Request.of_file(b"junk").encoded()) == (False, {400})
