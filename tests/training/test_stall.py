"""Who waits for whom, told from where the workers' programs are."""

from types import SimpleNamespace

import pytest

from tfpipe.training.stall import Report, describe, whereabouts


def frame(filename, name, line=7):
    return SimpleNamespace(filename=filename, lineno=line, name=name)


LOOP = frame("/app/tfpipe/training/loop.py", "_train_epoch")
GATHER = frame("/app/tfpipe/distributed.py", "gather_objects")
HOROVOD = frame("/env/site-packages/horovod/tensorflow/functions.py", "allgather_object")
TENSORFLOW = frame("/env/site-packages/tensorflow/python/eager/execute.py", "quick_execute")


@pytest.mark.parametrize(
    ("stack", "expected"),
    [
        ([LOOP, TENSORFLOW], (True, "/app/tfpipe/training/loop.py:7 in _train_epoch")),
        ([LOOP], (False, "/app/tfpipe/training/loop.py:7 in _train_epoch")),
        ([LOOP, frame("/app/mine.py", "on_train_batch_end", 33)], (False, "/app/mine.py:33 in on_train_batch_end")),
        ([LOOP, frame("/home/me/tensorflow/mine.py", "hook")], (False, "/home/me/tensorflow/mine.py:7 in hook")),
        ([LOOP, frame("/app/tfpipe/training/loop.py", "_timed"), TENSORFLOW], (False, "reading its data")),
        (
            [LOOP, TENSORFLOW, frame("/app/tfpipe/distributed.py", "total"), HOROVOD],
            (True, "/app/tfpipe/distributed.py:7 in total"),
        ),
        ([LOOP, GATHER, HOROVOD], (True, "/app/tfpipe/distributed.py:7 in gather_objects")),
        ([], (False, "unknown")),
    ],
)
def test_a_worker_waits_where_it_is_in_a_library_that_a_step_has_called(stack, expected):
    assert whereabouts(stack) == expected


def report(looks, *, waits, place="loop.py:7 in f", host="node-a"):
    return Report(host, looks, step=41, idle_s=60.0, waits=waits, place=place)


def test_the_worker_that_the_others_wait_for_is_named_with_its_place():
    now = {0: report(9, waits=True), 1: report(9, waits=False, place="mine.py:33 in hook", host="node-b")}

    assert describe({}, now, size=2) == (
        "step 42: worker(s) 0 have waited 60 s for the gradients of the others: "
        "worker 1 (node-b) is at mine.py:33 in hook."
    )


def test_workers_whose_programs_stand_still_or_never_told_anything_are_named():
    before = {0: report(8, waits=True), 1: report(8, waits=True, host="node-b")}
    now = {0: report(9, waits=True), 1: report(8, waits=True, host="node-b")}

    text = describe(before, now, size=3)

    assert text == (
        "step 42: worker(s) 0 have waited 60 s for the gradients of the others: "
        "worker 1 (node-b) does not answer; worker 2 does not answer."
    )


@pytest.mark.parametrize("waits", [True, False])
def test_where_all_wait_or_all_work_nobody_is_blamed(waits):
    now = {rank: report(9, waits=waits) for rank in range(2)}

    assert describe({}, now, size=2) is None
