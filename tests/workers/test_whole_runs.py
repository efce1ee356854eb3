"""Whole runs over several workers, as `train` makes them; tests/test_on_workers.py compares them with runs of one.

The workers' processes train again and again: `join` gives them the world that there is.
"""

import json
import os
import shutil
from pathlib import Path

import pytest

from tests.training.small_runs import STOPPED_AT
from tfpipe.config import load_config
from tfpipe.core.errors import StoppedError
from tfpipe.lr_find import main as lr_find
from tfpipe.train import train

# What the runs of all numbers of workers share; see tests/test_on_workers.py.
SHARED = Path(os.environ.get("SHARED_RUNS", "."))


def together(world, agreed, action):
    """Do it on every worker; where one fails, fail on all."""
    found = []
    agreed(lambda: found.append(action()))
    world.gather_objects(None)
    return found[0]


def run(name, *overrides, given="given.yaml", **options):
    return train(load_config(SHARED / given, [f"output_dir={SHARED / name}", *overrides]), **options)


@pytest.mark.parametrize("pieces", [1, 3])
def test_a_run_takes_the_steps_that_one_worker_takes(world, agreed, pieces):
    name = f"whole-on-{world.size}-in-{pieces}"

    result = together(world, agreed, lambda: run(name, f"training.accumulation_steps={pieces}"))

    assert result.workers == world.size


@pytest.mark.parametrize(("kind", "pieces"), [("single", 1), ("tags", 2)])
def test_a_run_over_texts_takes_the_steps_that_one_worker_takes(world, agreed, kind, pieces):
    overrides = (f"training.accumulation_steps={pieces}", "training.sentinel_steps=1")

    result = together(world, agreed, lambda: run(f"{kind}-on-{world.size}", *overrides, given=f"given-{kind}.yaml"))

    assert result.workers == world.size


def test_a_run_that_is_told_to_stop_does_so_in_mid_epoch(world, agreed, monkeypatch):
    if world.is_chief:
        monkeypatch.setenv("STOP_AT", str(STOPPED_AT))

    def action():
        with pytest.raises(StoppedError):
            run(f"stopped-on-{world.size}")

    together(world, agreed, action)


def test_a_run_that_another_number_of_workers_left_is_resumed(world, agreed):
    stopped = f"stopped-on-{1 if world.size == 4 else 4}"
    resumed = f"{stopped}-resumed-on-{world.size}"
    if world.is_chief:
        shutil.copytree(SHARED / stopped, SHARED / resumed)
    world.gather_objects(None)

    result = together(world, agreed, lambda: run(resumed, resume=True))

    assert result.workers == world.size


def test_a_fast_dev_run_takes_everything_along_and_tracks_nothing(world, agreed):
    overrides = (
        "training.callbacks=['tests.training.user_code:Recorder']",
        "training.rematerialization=segments",
        f"tracking.uri=sqlite:///{SHARED}/unused.db",
    )

    result = together(world, agreed, lambda: run("unused", *overrides, fast_dev_run=True))

    assert not (SHARED / "unused.db").exists()
    assert result.output_dir == SHARED / "fast-dev-run"
    assert json.loads((result.output_dir / "result.json").read_text())["workers"] == world.size
    assert not (SHARED / "unused").exists()


def test_the_learning_rate_finder_searches_together(world, agreed):
    options = json.loads((SHARED / "lr-find.json").read_text())

    code = together(world, agreed, lambda: lr_find([*options, "--output", str(SHARED / f"lr-find-{world.size}")]))

    assert code == 0


def test_a_worker_that_does_not_come_is_named_with_the_place_where_it_is(world, agreed, caplog):
    overrides = ("training.callbacks=['tests.training.user_code:Sleeps']", "training.stall_s=2", "training.epochs=1")

    with caplog.at_level("WARNING", "tfpipe.training.stall"):
        together(world, agreed, lambda: run(f"stalled-on-{world.size}", *overrides))

    told = world.broadcast_object(caplog.text)

    def assertions():
        assert "step 4: worker(s) 0 have waited" in told
        assert "worker 1 (localhost) is at " in told
        assert "user_code.py" in told
        assert " in on_train_batch_end." in told

    agreed(assertions)
