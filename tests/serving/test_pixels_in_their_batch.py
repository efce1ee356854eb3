"""Where there are no other cores, pixels are prepared in their batch: the answers must be the same."""

import asyncio
import contextlib
import gc
import os
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from serving.batching import Limits
from serving.cpus import usable_cores
from serving.deployment import Deployment
from serving.engine import Answered
from serving.errors import TooLargeError
from serving.slots import Slots
from tests.image_files import encoded
from tests.serving.asking import Batches, answers, ask, outcome_of
from tests.serving.servers import app_of
from tests.serving.test_engine import fake_engine, open_engine
from tfpipe.core.errors import DecodeError, InferenceError
from tfpipe.core.parity import BOUNDS, assert_parity

# Larger than what is prepared in the event loop.
SIDE = 80


def pictures(number, side=SIDE):
    return list(np.random.default_rng(0).integers(0, 256, (number, side, side, 3), np.uint8))


def in_batches(engine, inputs, **options):
    batches = Batches()
    return outcome_of(engine, inputs, batches, has_cores=False, **options), list(batches)


@pytest.fixture(scope="module")
def engine(bundle):
    return open_engine(bundle, precision="fp32", max_image_pixels=500_000)


@pytest.mark.parametrize("number", [1, 3, 9])
def test_the_answers_are_those_of_pixels_prepared_before(engine, number):
    inputs = pictures(number)

    outcome, batches = in_batches(engine, inputs)

    answers, same_batches = ask(engine, inputs)
    assert [one.answer() for one in outcome.rows] == answers
    assert batches == same_batches


def test_the_stages_are_told_apart(engine):
    outcome, _ = in_batches(engine, pictures(9))

    assert list(outcome.stage_s) == ["decode", "queue", "preprocess", "run"]
    assert min(outcome.stage_s["preprocess"], outcome.stage_s["run"]) > 0


def test_the_stages_are_told_apart_where_the_first_fails(bundle):
    def preprocess(pixels):
        if pixels[0, 0, 0] == 7:
            raise RuntimeError("seven")
        return np.zeros((8, 8, 3), np.float32)

    inputs = [np.full((SIDE, SIDE, 3), value, np.uint8) for value in (7, 1)]

    outcome, _ = in_batches(fake_engine(bundle, preprocess=preprocess), inputs)

    assert [type(row) for row in outcome.rows] == [InferenceError, Answered]
    assert list(outcome.stage_s) == ["decode", "queue", "preprocess", "run"]


def test_only_threads_that_answer_keep_memory(bundle):
    engine = open_engine(bundle, precision="fp32", max_batch_size=64)
    row = np.zeros(engine.inputs[0].shape[1:], np.float32)
    nbytes = 64 * row.nbytes

    def kept(work):
        with ThreadPoolExecutor(1) as thread:
            thread.submit(work).result()
            gc.collect()
            before = tracemalloc.get_traced_memory()[0]
        gc.collect()
        return before - tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        assert kept(engine.replay_golden) < nbytes / 2
        assert kept(engine.warm_up) < nbytes / 2
        assert kept(lambda: engine.run([row, row])) > nbytes / 2
    finally:
        tracemalloc.stop()


def test_what_cannot_be_prepared_fails_alone(bundle):
    def preprocess(pixels):
        if pixels[0, 0, 0] == 7:
            raise RuntimeError("seven")
        return np.full((9 if pixels[0, 0, 0] == 9 else 8, 8, 3), pixels[0, 0, 0], np.float32)

    engine = fake_engine(bundle, preprocess=preprocess, model=lambda rows: rows[:, 0, 0] / 100)
    inputs = [np.full((SIDE, SIDE, 3), value, np.uint8) for value in (1, 7, 3, 9, 5)]

    outcome, _ = in_batches(engine, inputs, max_batch_size=5)

    one, seven, three, nine, five = outcome.rows
    assert [row.rows[0].probabilities[0] for row in (one, three, five)] == pytest.approx([0.01, 0.03, 0.05])
    assert isinstance(seven, InferenceError)
    assert "seven" in str(seven)
    assert isinstance(nine, InferenceError)
    assert "expected float32 of shape (batch, 8, 8, 3), received float32 of shape (1, 9, 8, 3)" in str(nine)


def test_too_many_pixels_are_refused_before(bundle):
    outcome, batches = in_batches(open_engine(bundle, precision="fp32", max_image_pixels=SIDE), pictures(1))

    assert batches == []
    assert isinstance(outcome.rows[0], TooLargeError)


def test_large_pixels_go_to_a_thread_all_the_same(engine):
    with pytest.raises(RuntimeError, match="after shutdown"):
        in_batches(engine, pictures(1, side=600))


def test_rows_and_pixels_run_together(engine):
    (pixels,) = pictures(1)
    row = np.full(engine.inputs[0].shape[1:], 0.25, np.float32)

    together = engine.run([row, pixels])

    alone = [engine.run([one])[0] for one in (row, pixels)]
    for one, other in zip(together, alone, strict=True):
        assert_parity(one.probabilities, other.probabilities, BOUNDS["fp32"], where="together")


def test_a_thread_that_hangs_keeps_its_batch(bundle):
    began, may_end = threading.Event(), threading.Event()

    def model(rows):
        if rows[0, 0, 0, 0] == 1:
            began.set()
            assert may_end.wait(20)
        return rows[:, 0, 0] / 100

    engine = fake_engine(bundle, model=model)
    rows = {value: [np.full((8, 8, 3), value, np.float32)] * 2 for value in (1, 2)}
    with ThreadPoolExecutor(2) as threads:
        slow = threads.submit(engine.run, rows[1])
        assert began.wait(20)
        quick = threads.submit(engine.run, rows[2]).result(20)
        may_end.set()

    assert [row.probabilities[0] for row in (*slow.result(), *quick)] == pytest.approx([0.01, 0.01, 0.02, 0.02])


def test_drift_looks_at_them(engine):
    class Watch:
        seen = ()

        def received(self, sample, rows):
            self.seen += (sample,)

        def answered(self, rows):
            pass

    engine.drift = Watch()
    inputs = pictures(2)
    try:
        in_batches(engine, inputs)
        assert all(any(one is sample for sample in engine.drift.seen) for one in inputs)
    finally:
        engine.drift = None


def files(number, side=SIDE):
    return [encoded(one, "PNG") for one in pictures(number, side)]


@contextlib.contextmanager
def deployed(engine, max_batch_size=4):
    """On one core, with threads for files."""
    limits = Limits(max_batch_size, max_rows=1000, max_bytes=2**30)
    with ThreadPoolExecutor(1, "prepare") as preparing, ThreadPoolExecutor(1, "run") as running:
        yield Deployment(
            engine, limits, slots=Slots(1), preparing=preparing, running=running, has_cores=False, observer=Batches()
        )


async def of_files(engine, inputs):
    with deployed(engine, max_batch_size=8) as deployment:
        return await deployment.infer(inputs, deadline_s=float("inf"))


@pytest.mark.parametrize("number", [1, 3, 9])
async def test_the_pixels_of_files_are_prepared_in_their_batch(engine, number):
    outcome = await of_files(engine, files(number))

    assert [one.answer() for one in outcome.rows] == await asyncio.to_thread(answers, engine, files(number))
    assert list(outcome.stage_s) == ["decode", "queue", "preprocess", "run"]


async def test_the_pixels_of_a_large_file_are_not(engine):
    assert list((await of_files(engine, files(1, side=600))).stage_s) == ["decode", "preprocess", "queue", "run"]


async def test_a_file_that_cannot_be_read_is_refused_before_its_batch(engine):
    one, two, three = files(3)

    outcome = await of_files(engine, [one, two[:100], three])

    assert [type(row) for row in outcome.rows] == [Answered, DecodeError, Answered]


async def test_few_files_wait_as_pixels(bundle):
    """They take many times the room that was admitted for them."""
    threads = []

    def preprocess(pixels):
        threads.append(threading.current_thread().name.partition("_")[0])
        return np.zeros((8, 8, 3), np.float32)

    with deployed(fake_engine(bundle, preprocess=preprocess), max_batch_size=2) as deployment:
        await asyncio.gather(*[deployment.infer([one], deadline_s=float("inf")) for one in files(12)])

    # Of two batches; what runs them is a thread, or the event loop where they were quick.
    assert (len(threads), threads.count("prepare")) == (12, 8)


async def stages_of_the_service(bundle):
    service = app_of(bundle).service
    await service.load()
    try:
        (deployment,) = service.models
        return list((await deployment.infer(pictures(1), deadline_s=float("inf"))).stage_s)
    finally:
        service.close()


async def test_the_service_does_so_on_one_core(bundle):
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        assert await stages_of_the_service(bundle) == ["decode", "queue", "preprocess", "run"]
    finally:
        os.sched_setaffinity(0, allowed)


@pytest.mark.skipif(usable_cores() == 1, reason="this machine has one core")
async def test_the_service_does_not_on_several(bundle):
    assert await stages_of_the_service(bundle) == ["decode", "preprocess", "queue", "run"]
