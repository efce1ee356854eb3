import asyncio
import time

import pytest

from serving.errors import ClientGoneError, DeadlineError
from serving.patience import Listener, Patience


def late():
    return DeadlineError("deadline: expected an answer in time.")


@pytest.mark.parametrize("limit_s", [-1.0, 0.0, 0.02, 0.12])
async def test_what_is_too_late_is_given_up(limit_s):
    began_s = time.monotonic()

    with pytest.raises(DeadlineError), Patience(began_s + limit_s, late):
        await asyncio.sleep(5)

    assert max(limit_s, 0.0) <= time.monotonic() - began_s + 0.001
    # Nothing of it stays: the task can wait again.
    assert asyncio.current_task().cancelling() == 0
    await asyncio.sleep(0)


async def test_what_is_in_time_is_left_alone():
    with Patience(time.monotonic() + 0.06, late):
        await asyncio.sleep(0.01)

    await asyncio.sleep(0.15)


async def test_another_moment_counts_from_when_it_is_said():
    with Patience(time.monotonic() + 0.03, late) as patience:
        patience.wait_until(time.monotonic() + 60)
        await asyncio.sleep(0.15)
        patience.wait_until(time.monotonic() + 0.01)
        with pytest.raises(asyncio.CancelledError):
            await asyncio.sleep(5)
        asyncio.current_task().uncancel()


async def test_a_moment_that_moves_away_and_back_is_kept():
    began_s = time.monotonic()

    async def work():
        with Patience(began_s + 0.03, late) as patience:
            patience.wait_until(began_s + 0.12)
            await asyncio.sleep(5)

    with pytest.raises(DeadlineError):
        await work()

    assert 0.119 <= time.monotonic() - began_s < 2.0


async def hung_up(after_s):
    await asyncio.sleep(after_s)
    return {"type": "http.disconnect"}


class Connection:
    """A watch that is told by the test."""

    call = None

    def when_gone(self, call):
        self.call = call

    def forget(self):
        self.call = None


async def test_a_client_that_hangs_up_is_noticed():
    connection = Connection()

    async def work():
        with Patience(time.monotonic() + 60, late) as patience:
            patience.wait_for(connection)
            asyncio.get_running_loop().call_later(0.01, connection.call)
            await asyncio.sleep(5)

    with pytest.raises(ClientGoneError):
        await work()
    assert connection.call is None


async def test_nobody_is_told_of_a_client_whose_answer_is_there():
    connection = Connection()

    with Patience(time.monotonic() + 60, late) as patience:
        patience.wait_for(connection)

    assert connection.call is None


async def test_on_a_server_that_does_not_tell_a_task_listens_as_long_as_the_request_lasts():
    async def work():
        with Patience(time.monotonic() + 60, late) as patience:
            patience.wait_for(Listener(lambda: hung_up(0.05)))
            await asyncio.sleep(5)

    with pytest.raises(ClientGoneError):
        await work()

    with Patience(time.monotonic() + 60, late) as patience:
        patience.wait_for(Listener(lambda: hung_up(0.05)))
    await asyncio.sleep(0.1)


async def test_who_is_cancelled_from_elsewhere_stays_cancelled():
    async def work():
        with Patience(time.monotonic() + 60, late):
            await asyncio.sleep(5)

    task = asyncio.create_task(work())
    await asyncio.sleep(0.01)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task


async def test_an_error_of_the_block_is_its_own():
    with pytest.raises(ValueError, match="its own"), Patience(time.monotonic() + 60, late):
        raise ValueError("its own")


async def test_an_error_that_takes_the_place_of_being_given_up_leaves_the_task_as_it_was():
    async def fails_when_cancelled():
        try:
            await asyncio.sleep(5)
        except asyncio.CancelledError:
            raise ValueError("its own") from None

    async def work():
        with Patience(time.monotonic() + 0.01, late):
            await fails_when_cancelled()

    with pytest.raises(ValueError, match="its own"):
        await work()

    assert asyncio.current_task().cancelling() == 0
