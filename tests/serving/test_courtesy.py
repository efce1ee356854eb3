"""Under more load than can be carried, the event loop's thread waits for its turn."""

import asyncio
import os
import subprocess
import sys
from concurrent.futures import Future

import httpx
import pytest

from serving.batching import Pace
from serving.courtesy import Courtesy
from serving.cpus import wait_for_turn
from serving.service import Service
from serving.watched import WatchedThreads
from tests.serving.bundles import RED
from tests.serving.servers import app_of, serving
from tests.serving.v2.fast_requests import exchange, request, rows

pytestmark = pytest.mark.skipif(
    not hasattr(os, "SCHED_BATCH") or os.sched_getscheduler(0) != os.SCHED_OTHER,
    reason="needs Linux, and a process that nobody has given another policy",
)


def policy():
    return os.sched_getscheduler(0)


@pytest.fixture(autouse=True)
def _as_before():
    yield
    wait_for_turn(False)


async def until_over(courtesy):
    async with asyncio.timeout(20):
        while courtesy.is_on:
            await asyncio.sleep(0.01)  # polls


async def test_the_loop_waits_for_its_turn_until_nothing_is_refused_any_more():
    courtesy = Courtesy(over_s=1.0)
    assert policy() == os.SCHED_OTHER
    for _ in range(25):
        courtesy.refused()
        await asyncio.sleep(0.1)  # of a load that goes on
        assert policy() == os.SCHED_BATCH

    await until_over(courtesy)
    assert policy() == os.SCHED_OTHER
    courtesy.refused()
    assert policy() == os.SCHED_BATCH


async def test_threads_that_are_made_meanwhile_do_not(bundle):
    service: Service = app_of(bundle).service
    threads = WatchedThreads("run", timeout_s=None)
    wait_for_turn(True)
    ran: Future[int] = threads.submit(policy)

    assert await service.run(policy) == os.SCHED_OTHER
    assert await asyncio.wrap_future(ran) == os.SCHED_OTHER
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


def by_predict(running):
    answer = httpx.post(f"http://127.0.0.1:{running.port}/predict", content=RED, headers={"Content-Type": "image/png"})
    return answer.status_code


def by_the_fast_path(running):
    return exchange(running, request(rows(1)))[0][0]


@pytest.mark.parametrize("ask", [by_predict, by_the_fast_path])
def test_whoever_is_refused_for_lack_of_time_sets_it_off(bundle, ask):
    app = app_of(bundle)
    with serving(app) as running:
        assert not app.service.courtesy.is_on
        too_slow(app)
        assert ask(running) == 504
        assert app.service.courtesy.is_on


def test_a_bad_input_does_not(bundle):
    app = app_of(bundle)
    with serving(app) as running:
        answer = httpx.post(
            f"http://127.0.0.1:{running.port}/predict", content=b"junk", headers={"Content-Type": "image/png"}
        )
        assert answer.status_code == 400
        assert not app.service.courtesy.is_on
