"""What a user sees while a model trains."""

import pytest

from tfpipe.training.progress import Progress


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_away_from_a_terminal_a_line_comes_every_ten_seconds(capsys, clock):
    progress = Progress(epochs=3, steps_per_epoch=4, shown=True, clock=clock)
    progress.start_epoch(0, 0)
    for _ in range(3):
        clock.now += 6.0
        progress.step(loss=0.5, samples=30)

    # One line, after the second step; ten steps of six seconds are left then.
    assert capsys.readouterr().err == "epoch 1/3  step 2/4  loss 0.5000  5 samples/s  0:01:00 left\n"


def test_an_epoch_ends_with_its_metrics_and_the_time_that_the_run_still_needs(capsys, clock):
    progress = Progress(epochs=3, steps_per_epoch=1, shown=True, clock=clock)
    for epoch in range(3):
        progress.start_epoch(epoch, 0)
        progress.step(loss=0.5, samples=30)
        clock.now += 100.0
        progress.end_epoch("loss 0.5")

    assert capsys.readouterr().err.splitlines() == [
        "epoch 1/3  loss 0.5  0:03:20 left",
        "epoch 2/3  loss 0.5  0:01:40 left",
        "epoch 3/3  loss 0.5",
    ]


def test_other_workers_say_nothing(capsys, clock):
    progress = Progress(epochs=1, steps_per_epoch=1, shown=False, clock=clock)
    progress.start_epoch(0, 0)
    clock.now += 60.0
    progress.step(loss=0.5, samples=30)
    progress.end_epoch("loss 0.5")

    assert capsys.readouterr().err == ""
