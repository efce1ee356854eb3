"""Checkpoints written while training goes on."""

import contextlib
import math
import threading

import numpy as np
import pytest

from tests.full_disk import files_of_at_most
from tests.training.test_checkpoints import new_loop
from tfpipe.core.errors import TrainingError
from tfpipe.training.checkpoint_writer import CheckpointWriter
from tfpipe.training.checkpoints import CheckpointFolder, TrainingState, load, named_arrays
from tfpipe.training.observers import Observer
from tfpipe.training.run import restore_best

pytestmark = pytest.mark.tensorflow

# Less than a checkpoint of the small network.
FULL_BYTES = 1500


@pytest.fixture(scope="module")
def loop():
    return new_loop("adamw")[0]


def fill(loop, value):
    for members in loop.variables().values():
        for variable in members:
            variable.assign(np.full(variable.shape, value, variable.dtype))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_checkpoint_holds_what_was_there_when_it_was_saved(tmp_path, loop):
    state = TrainingState(step=1, history=[{"loss": 1.0}])
    fill(loop, 3)
    before = named_arrays(loop.variables())

    with CheckpointWriter(CheckpointFolder(tmp_path, keep=3)) as writer:
        writer.save(loop.variables(), state)
        # Training goes on at once.
        fill(loop, 7)
        state.step = 2
        state.history.append({"loss": 0.5})
        writer.finish()

    arrays, saved = load(tmp_path / "step-00000001")
    assert {name: array.tobytes() for name, array in arrays.items()} == {n: a.tobytes() for n, a in before.items()}
    assert (saved.step, saved.history) == (1, [{"loss": 1.0}])


def test_saves_in_quick_succession_are_all_written_in_order_and_pruned(tmp_path, loop):
    with CheckpointWriter(CheckpointFolder(tmp_path, keep=2)) as writer:
        for step in range(1, 7):
            fill(loop, step)
            writer.save(loop.variables(), TrainingState(step=step), best=step == 2)

    assert names(tmp_path) == ["step-00000002", "step-00000005", "step-00000006"]
    for path in tmp_path.iterdir():
        arrays, state = load(path)
        assert all((array == state.step).all() for array in arrays.values())


def test_writing_happens_in_one_thread_that_is_gone_afterwards(tmp_path, loop):
    with CheckpointWriter(CheckpointFolder(tmp_path, keep=1)) as writer:
        for step in range(3):
            writer.save(loop.variables(), TrainingState(step=step))
            writing = [thread for thread in threading.enumerate() if thread.name.startswith("checkpoint")]
            assert len(writing) == 1

    assert not writing[0].is_alive()


def test_on_a_full_disk_training_goes_on_with_one_warning_a_failure(tmp_path, loop, caplog):
    with CheckpointWriter(CheckpointFolder(tmp_path, keep=1)) as writer:
        writer.save(loop.variables(), TrainingState(step=1))
        writer.finish()
        with files_of_at_most(FULL_BYTES):
            writer.save(loop.variables(), TrainingState(step=2))
            writer.save(loop.variables(), TrainingState(step=3))
            with pytest.raises(TrainingError, match="the checkpoint of step 3 cannot be written"):
                writer.finish()
        assert names(tmp_path) == ["step-00000001"]
        writer.save(loop.variables(), TrainingState(step=4))
        writer.finish()

    assert names(tmp_path) == ["step-00000004"]
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 2
    assert "the checkpoint of step 2 cannot be written" in warnings[0]
    assert "the checkpoint of step 3 cannot be written" in warnings[1]
    assert "Training goes on; the checkpoints before it are kept." in warnings[0]


def test_the_last_checkpoint_is_tried_once_more_when_there_is_room_again(tmp_path, loop):
    fill(loop, 5)
    with CheckpointWriter(CheckpointFolder(tmp_path, keep=1)) as writer:
        with files_of_at_most(FULL_BYTES):
            writer.save(loop.variables(), TrainingState(step=9))
            # Waits until the thread has failed.
            writer.__exit__(None, None, None)

        writer.finish()

    assert load(tmp_path / "step-00000009")[1].step == 9


class RoomAfter(Observer):
    """Makes room on the disk after an epoch."""

    def __init__(self, epoch, full_disk):
        self._epoch, self._full_disk = epoch, full_disk

    def on_epoch_end(self, epoch, metrics):
        if epoch == self._epoch:
            self._full_disk.close()


def test_a_run_whose_disk_is_full_for_a_while_ends_well(tmp_path, caplog):
    loop, _ = new_loop("sgd")
    state, folder = TrainingState(), CheckpointFolder(tmp_path, keep=1)
    room_again = loop.config.training.epochs - 2

    with CheckpointWriter(folder) as writer, contextlib.ExitStack() as full_disk:
        full_disk.enter_context(files_of_at_most(FULL_BYTES))
        loop.run(state, writer, [RoomAfter(room_again, full_disk)])

    path, arrays, saved = folder.load_newest()
    assert saved.epoch == loop.config.training.epochs
    assert arrays.keys() == named_arrays(loop.variables()).keys()
    assert "cannot be written" in caplog.text
    # The best epoch may be one that could not be written: then the weights are those of one that could.
    assert restore_best(loop, folder, state) in {saved.best_epoch, saved.epoch - 1}
    assert math.isfinite(state.history[-1]["loss"])
    assert path.parent == tmp_path


def test_a_run_whose_disk_stays_full_says_so_at_its_end(tmp_path):
    loop, _ = new_loop("sgd")

    with (
        CheckpointWriter(CheckpointFolder(tmp_path, keep=1)) as writer,
        files_of_at_most(FULL_BYTES),
        pytest.raises(TrainingError, match=r"cannot be written: .*Make room; --resume goes on"),
    ):
        loop.run(TrainingState(), writer, [])

    assert names(tmp_path) == []


def test_the_best_weights_are_those_of_the_best_epoch_that_was_written(tmp_path, loop, caplog):
    folder = CheckpointFolder(tmp_path, keep=3)
    fill(loop, 1)
    folder.save(loop.variables(), TrainingState(step=1, best_epoch=0), best=True)
    fill(loop, 2)
    # Epoch 3 was better, but its checkpoint is not there.
    state = TrainingState(step=4, best_epoch=2)
    folder.save(loop.variables(), state)

    epoch = restore_best(loop, folder, state)

    assert epoch == 0
    assert all((variable.numpy() == 1).all() for variable in loop.variables()["model"])
    assert "the best epoch, 3, was not written; epoch 1, the best that was, is saved instead" in caplog.text


def test_what_a_killed_process_left_is_removed_and_what_it_was_replacing_comes_back(tmp_path, loop):
    folder = CheckpointFolder(tmp_path, keep=3)
    folder.save(loop.variables(), TrainingState(step=1))
    folder.save(loop.variables(), TrainingState(step=2))
    # As `atomic.staged_folder` names them, killed between its two renames.
    (tmp_path / ".step-00000002.x.old").mkdir()
    (tmp_path / "step-00000002").rename(tmp_path / ".step-00000002.x.old" / "step-00000002")
    (tmp_path / ".step-00000003.y.tmp").mkdir()
    (tmp_path / ".step-00000003.y.tmp" / "variables.safetensors").write_bytes(b"half")

    folder.tidy()

    assert names(tmp_path) == ["step-00000001", "step-00000002"]
    assert load(tmp_path / "step-00000002")[1].step == 2
