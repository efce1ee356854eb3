"""The output folder of a run."""

import json
import multiprocessing
import os
import re
from pathlib import Path

import pytest

from tests.training.small_runs import small_config
from tfpipe.config import load_config, save_config
from tfpipe.core.errors import ConfigError, DataError, StoppedError, TrainingError
from tfpipe.training.workspace import newest_unfinished, opened, save_result, save_status


@pytest.fixture
def config(tmp_path):
    return small_config(tmp_path, "digits")


def folder_of(config):
    return Path(config.output_dir)


def unfinished(folder, config, age_s=0):
    folder.mkdir(parents=True)
    save_config(config, folder / "config.yaml")
    status = (folder / "config.yaml").stat()
    os.utime(folder / "config.yaml", (status.st_atime - age_s, status.st_mtime - age_s))
    return folder


def enter(config, *, resume=False, overwrite=False):
    with opened(config, resume=resume, overwrite=overwrite) as folder:
        return sorted(path.name for path in folder.iterdir())


def test_a_new_folder_holds_the_configuration_that_starts_the_run_again(config):
    enter(config)

    assert load_config(folder_of(config) / "config.yaml") == config


def test_a_folder_that_exists_and_is_empty_is_as_good(config):
    folder_of(config).mkdir()

    enter(config)

    assert (folder_of(config) / "config.yaml").exists()


def test_a_refused_start_that_left_its_status_is_no_obstacle(config):
    enter(config)
    (folder_of(config) / "config.yaml").unlink()
    save_status(folder_of(config), ConfigError("wrong"))

    assert "config.yaml" in enter(config)


def test_a_file_in_its_place_is_refused(config):
    folder_of(config).write_text("mine")

    with pytest.raises(ConfigError, match=r"output_dir: expected a folder, but '.*run' is a file"):
        enter(config, overwrite=True)
    assert folder_of(config).read_text() == "mine"


@pytest.mark.parametrize("place", ["file/run", "/proc/run"])
def test_a_place_that_cannot_be_written_is_refused(tmp_path, place):
    (tmp_path / "file").write_text("mine")
    config = small_config(tmp_path, "digits", [f"output_dir={tmp_path / place}"])

    with pytest.raises(ConfigError, match=r"output_dir: expected a folder that can be written, but .*: \w+"):
        enter(config)


def test_an_unfinished_run_wants_a_flag(config):
    enter(config)

    with pytest.raises(ConfigError, match=r"holds an unfinished run or other files\. Give --resume to go on, --overw"):
        enter(config)
    assert enter(config, resume=True) == enter(config, overwrite=True)


def test_a_complete_run_is_replaced_by_overwrite_alone(config):
    enter(config)
    save_result(folder_of(config), {"run_id": "1"})
    (folder_of(config) / "checkpoints").mkdir()

    for resume in (False, True):
        with pytest.raises(ConfigError, match=r"holds a complete run\. Choose another folder, or give --overwrite"):
            enter(config, resume=resume)
    names = enter(config, overwrite=True)

    assert names == [".lock", "config.yaml"]


def test_overwrite_never_removes_what_is_no_run(config):
    folder_of(config).mkdir()
    (folder_of(config) / "thesis.txt").write_text("mine")

    with pytest.raises(ConfigError, match=r"--overwrite: .* holds files that are no run of tfpipe"):
        enter(config, overwrite=True)
    assert (folder_of(config) / "thesis.txt").read_text() == "mine"


def test_resume_wants_something_to_resume(config):
    with pytest.raises(ConfigError, match=r"--resume: expected an unfinished run in '.*run', found no such folder"):
        enter(config, resume=True)
    assert not folder_of(config).exists()
    folder_of(config).mkdir()
    with pytest.raises(ConfigError, match=r"--resume: expected an unfinished run in '.*run', found an empty folder"):
        enter(config, resume=True)


def test_files_that_are_no_run_are_not_resumed(config):
    folder_of(config).mkdir()
    (folder_of(config) / "thesis.txt").write_text("mine")

    with pytest.raises(ConfigError, match=r"--resume: expected an unfinished run in '.*run', found no config.yaml"):
        enter(config, resume=True)


@pytest.mark.parametrize("kind", [ConfigError, DataError])
def test_a_start_that_is_refused_is_no_unfinished_run(config, kind):
    with pytest.raises(kind), opened(config, resume=False, overwrite=False):
        raise kind("data.path: expected a folder.")

    assert "config.yaml" in enter(config)


@pytest.mark.parametrize("kind", [TrainingError, StoppedError, KeyboardInterrupt])
def test_a_run_that_fails_later_is_one(config, kind):
    with pytest.raises(kind), opened(config, resume=False, overwrite=False):
        raise kind

    with pytest.raises(ConfigError, match="holds an unfinished run"):
        enter(config)


def test_a_run_with_checkpoints_keeps_its_configuration_whatever_happens(config):
    def trained_then_lost_its_data():
        with opened(config, resume=False, overwrite=False) as folder:
            (folder / "checkpoints").mkdir()
            raise DataError("data.test_path: gone.")

    with pytest.raises(DataError):
        trained_then_lost_its_data()

    assert "config.yaml" in enter(config, resume=True)


@pytest.mark.parametrize(
    "override",
    ["training.epochs=7", "tracking.experiment=other", "tracking.tags={a: b}", "conversion.golden_samples=3"],
)
def test_what_does_not_belong_to_the_state_may_change_on_resume(tmp_path, config, override):
    enter(config)
    changed = small_config(tmp_path, "digits", [override])

    enter(changed, resume=True)

    assert load_config(folder_of(config) / "config.yaml") == changed


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("training.learning_rate=0.5", "training.learning_rate: 0.01 -> 0.5"),
        ("training.seed=3", "training.seed: 0 -> 3"),
        ("preprocessing.image_size=[4,4]", "preprocessing.image_size: [8, 8] -> [4, 4]"),
        ("model.name=small_cnn", "model.name: 'mlp' -> 'small_cnn'"),
    ],
)
def test_what_belongs_to_the_state_is_refused_by_name(tmp_path, config, override, sentence):
    enter(config)

    with pytest.raises(ConfigError, match=re.escape(sentence)):
        enter(small_config(tmp_path, "digits", [override]), resume=True)
    assert load_config(folder_of(config) / "config.yaml") == config


def _hold(config, held, release):
    with opened(config, resume=False, overwrite=False):
        held.set()
        release.wait(60)


def test_a_folder_that_another_process_trains_into_is_refused(config):
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(config, held, release))
    process.start()
    try:
        assert held.wait(60)
        for flags in ({}, {"resume": True}, {"overwrite": True}):
            with pytest.raises(ConfigError, match=r"output_dir: another process is training into '.*run'"):
                enter(config, **flags)
    finally:
        release.set()
        process.join(60)

    assert process.exitcode == 0
    assert "config.yaml" in enter(config, resume=True)


# output_dir with a time in it -----------------------------------------------------------------------------------------


def test_resume_finds_the_newest_unfinished_run_of_a_pattern(tmp_path, config):
    unfinished(tmp_path / "runs" / "digits-1", config, age_s=50)
    wanted = unfinished(tmp_path / "runs" / "digits-2", config, age_s=30)
    save_result(unfinished(tmp_path / "runs" / "digits-3", config, age_s=10), {})
    unfinished(tmp_path / "runs" / "other-4", config)
    (tmp_path / "runs" / "digits-5").mkdir()

    assert newest_unfinished(f"{tmp_path}/runs/digits-${{now:%Y%m%d}}") == str(wanted)


def test_without_an_unfinished_run_resume_says_where_it_looked(tmp_path):
    with pytest.raises(ConfigError, match=r"--resume: expected an unfinished run in .*/runs/\*, found none"):
        newest_unfinished(f"{tmp_path}/runs/${{now:%Y}}")


def test_a_folder_without_a_time_stands_for_itself():
    assert newest_unfinished("runs/mine") == "runs/mine"


# What others read -----------------------------------------------------------------------------------------------------


def test_the_status_tells_what_horovodrun_does_not_pass_on(tmp_path):
    save_status(tmp_path, StoppedError("SIGTERM after step 3; the state is saved."))
    stopped = json.loads((tmp_path / "status.json").read_text())
    save_status(tmp_path, None)
    done = json.loads((tmp_path / "status.json").read_text())

    assert stopped == {"exit_code": 75, "reason": "SIGTERM after step 3; the state is saved."}
    assert done == {"exit_code": 0, "reason": "done"}


def test_no_status_is_written_where_there_is_no_folder(tmp_path):
    save_status(tmp_path / "run", ConfigError("wrong"))

    assert not (tmp_path / "run").exists()
