"""Workers that were started with different things: told on all of them before the first step."""

import json
import os
import shutil
from pathlib import Path

import pytest
import yaml

from tests.training.small_runs import small_values, write_class_folders
from tfpipe.config import load_config
from tfpipe.core.errors import ConfigError, DataError, TfpipeError
from tfpipe.train import train


@pytest.fixture
def folder(world, tmp_path, monkeypatch):
    """The chief's, on every worker, with data and the configuration of a small run, whose data path is relative."""
    # As if each were on a machine of its own.
    monkeypatch.setenv("HOROVOD_HOSTNAME", f"node-{world.rank}")
    shared = Path(world.broadcast_object(str(tmp_path)))
    if world.is_chief:
        write_class_folders(shared / "data")
        values = small_values(shared, "data")
        values["tracking"]["registered_model"] = None
        (shared / "run.yaml").write_text(yaml.safe_dump(values))
    world.gather_objects(None)
    return shared


def refusal(folder, *overrides, here=None):
    """What a worker says about a run that is refused; `here` is where it starts."""
    before = Path.cwd()
    os.chdir(here or folder)
    try:
        train(load_config(folder / "run.yaml", overrides))
    except TfpipeError as error:
        return error
    finally:
        os.chdir(before)
    return None


def assert_status(world, folder, refused):
    """What is wrong stands in the chief's folder, with the exit code of bad input; the chief writes it."""
    if not world.is_chief:
        return
    status = json.loads((folder / "run" / "status.json").read_text())
    assert status == {"exit_code": 2, "reason": str(refused)}


def test_different_configurations_are_named_by_key_value_worker_and_machine(world, agreed, folder):
    refused = refusal(folder, f"training.learning_rate=0.0{world.rank + 1}", f"training.seed={min(world.rank, 1)}")

    def assertions():
        assert isinstance(refused, ConfigError)
        said = str(refused)
        assert "worker(s) 1 (node-1), 2 (node-2) differ from worker 0 (node-0)" in said
        assert "training.learning_rate: 0.01 on worker(s) 0, 0.02 on worker(s) 1, 0.03 on worker(s) 2" in said
        assert "training.seed: 0 on worker(s) 0, 1 on worker(s) 1, 2" in said
        assert "output_dir" not in said
        assert_status(world, folder, refused)
        # Nothing but the status is left: the next start needs no flag. The chief takes it away while others go on.
        assert not world.is_chief or not (folder / "run" / "config.yaml").exists()

    agreed(assertions)


def test_different_data_are_named_by_worker(world, agreed, folder):
    here = folder / str(world.rank)
    write_class_folders(here / "data", num_samples=24 - 2 * (world.rank == 1))

    refused = refusal(folder, here=here)

    def assertions():
        assert isinstance(refused, DataError)
        assert "data.path: expected the same data on every worker, but worker(s) 1 (node-1)" in str(refused)
        assert_status(world, folder, refused)

    agreed(assertions)


def test_data_missing_on_one_worker_are_told_with_its_name(world, agreed, folder):
    here = folder / str(world.rank)
    here.mkdir()
    if world.rank != 1:
        shutil.copytree(folder / "data", here / "data")

    refused = refusal(folder, here=here)

    def assertions():
        assert isinstance(refused, TfpipeError)
        assert_status(world, folder, refused)
        assert str(refused).removeprefix("worker 1 (node-1): ").startswith("data.path: ")
        assert str(refused).startswith("worker 1 (node-1): ") == (world.rank != 1)

    agreed(assertions)


def test_a_batch_smaller_than_the_workers_is_refused(world, agreed, folder):
    refused = refusal(folder, "training.batch_size=2")

    def assertions():
        assert "training.batch_size: expected at least one sample a worker, received 2 for 3" in str(refused)
        assert_status(world, folder, refused)

    agreed(assertions)
