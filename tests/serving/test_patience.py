import asyncio
import time

import pytest

from serving.errors import ClientGoneError, DeadlineError
from serving.patience import Patience, Timekeeper


def late():
    return DeadlineError("deadline: expected an answer in time.")


async def silent():
    await asyncio.Event().wait()
    return {}


@pytest.mark.parametrize("limit_s", [-1.0, 0.0, 0.02, 0.12])
async def test_what_is_too_late_is_given_up(limit_s):
    began_s = time.monotonic()

    with pytest.raises(DeadlineError), Patience(Timekeeper(), began_s + limit_s, late):
        await asyncio.sleep(5)

    assert max(limit_s, 0.0) <= time.monotonic() - began_s + 0.001
    # Nothing of it stays: the task can wait again.
    assert asyncio.current_task().cancelling() == 0
    await asyncio.sleep(0)


async def test_what_is_in_time_is_left_alone():
    timekeeper = Timekeeper()

    with Patience(timekeeper, time.monotonic() + 0.06, late):
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.15)

    assert not timekeeper.under_way


async def test_another_moment_counts_from_when_it_is_said():
    with Patience(Timekeeper(), time.monotonic() + 0.03, late) as patience:
        patience.wait_until(time.monotonic() + 60)
        await asyncio.sleep(0.15)
        patience.wait_until(time.monotonic() + 0.01)
        with pytest.raises(asyncio.CancelledError):
            await asyncio.sleep(5)
        asyncio.current_task().uncancel()


async def test_a_client_that_hangs_up_is_noticed():
    async def receive():
        await asyncio.sleep(0.1)
        return {"type": "http.disconnect"}

    async def work():
        with Patience(Timekeeper(), time.monotonic() + 60, late) as patience:
            patience.wait_until(time.monotonic() + 60, receive)
            await asyncio.sleep(5)

    with pytest.raises(ClientGoneError):
        await work()


async def test_a_client_is_not_listened_for_before_its_body_is_there():
    asked = []

    async def receive():
        asked.append(1)
        await silent()

    with Patience(Timekeeper(), time.monotonic() + 60, late) as patience:
        await asyncio.sleep(0.12)
        assert not asked
        patience.wait_until(time.monotonic() + 60, receive)
        await asyncio.sleep(0.15)
        assert asked == [1]


async def test_who_is_cancelled_from_elsewhere_stays_cancelled():
    async def work():
        with Patience(Timekeeper(), time.monotonic() + 60, late):
            await asyncio.sleep(5)

    task = asyncio.create_task(work())
    await asyncio.sleep(0.01)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_of_the_block_is_its_own():
    with pytest.raises(ValueError, match="its own"), Patience(Timekeeper(), time.monotonic() + 60, late):
        raise ValueError("its own")


async def test_one_timer_looks_after_many():
    timekeeper = Timekeeper()

    async def work(limit_s):
        with Patience(timekeeper, time.monotonic() + limit_s, late):
            await asyncio.sleep(0.5)

    limits_s = [0.01 * index if index % 2 else 60.0 for index in range(20)]
    outcomes = await asyncio.gather(*(work(limit_s) for limit_s in limits_s), return_exceptions=True)

    assert [isinstance(one, DeadlineError) for one in outcomes] == [limit_s < 60 for limit_s in limits_s]
    assert not timekeeper.under_way


async def test_an_error_that_takes_the_place_of_being_given_up_leaves_the_task_as_it_was():
    async def fails_when_cancelled():
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            raise ValueError("its own") from None

    async def work():
        with Patience(Timekeeper(), time.monotonic() + 0.01, late):
            await fails_when_cancelled()

    with pytest.raises(ValueError, match="its own"):
        await work()

    assert asyncio.current_task().cancelling() == 0
