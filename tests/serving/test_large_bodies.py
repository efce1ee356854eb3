"""A large body is taken apart beside the event loop, a small one in it."""

import asyncio
import threading

import pytest

from serving.metrics import Metrics
from serving.request import Request
from serving.routes.inference import SMALL_BYTES, Asked
from serving.service import Service
from serving.settings import ServingSettings
from tests.serving.servers import PATIENCE_S


@pytest.fixture
def service():
    made = Service(ServingSettings(model="none"), Metrics(), tuple)
    yield made
    made.close()


def asked(service):
    scope = {"method": "POST", "path": "/predict", "headers": [], "query_string": b""}
    return Asked(service, Request.of(scope))


@pytest.mark.parametrize(("size", "is_beside"), [(0, False), (SMALL_BYTES, False), (SMALL_BYTES + 1, True)])
def test_its_size_says_where(service, size, is_beside):
    where = asyncio.run(asked(service).work(size, threading.get_ident))

    assert (where != threading.get_ident()) == is_beside


def test_while_one_is_taken_apart_others_go_on(service):
    other_is_answered = threading.Event()

    async def ask():
        large = asyncio.create_task(asked(service).work(2**20, lambda: other_is_answered.wait(PATIENCE_S)))
        # The other comes after it.
        await asyncio.sleep(0)
        await asked(service).work(5, other_is_answered.set)
        return await large

    assert asyncio.run(ask()), "expected the small body to be answered while the large one was taken apart"
