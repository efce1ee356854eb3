"""Keras callbacks of a user, in real loops."""

import keras
import pytest

from tests.training import user_code
from tests.training.loops import small_loop, trained, weights_of
from tfpipe.core.errors import ConfigError, TrainingError
from tfpipe.training.checkpoints import TrainingState, load, restore
from tfpipe.training.keras_callbacks import KerasCallbacks, build_callbacks
from tfpipe.training_settings import TrainingConfig

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]


def observer(loop, state, *callbacks):
    training = loop.config.training
    return KerasCallbacks(callbacks, training, loop.parts, loop.optimizer, loop.world, state, loop.steps_per_epoch)


def run(folder, *callbacks, state=None, loop=None, **training):
    loop, state = loop or small_loop(**training), state or TrainingState()
    return trained(loop, folder, observers=[observer(loop, state, *callbacks)], state=state), loop


def built(*names):
    return build_callbacks(TrainingConfig(callbacks=[f"tests.training.user_code:{name}" for name in names]))


def test_a_callback_is_told_of_every_step_and_epoch_with_our_names(tmp_path):
    user_code.Recorder.calls.clear()

    run(tmp_path, *built("Recorder"), epochs=2)

    calls = user_code.Recorder.calls
    steps = [(f"batch {part}", step) for step in range(4) for part in ("begin", "end")]
    assert calls[0] == ("train begin", 2)
    assert calls[1:9] == calls[10:18] == steps
    assert calls[9][:3] == ("epoch end", 0, 1)
    assert {"loss", "accuracy", "val_loss", "val_accuracy", "learning_rate"} <= set(calls[9][3])
    assert calls[18][:3] == ("epoch end", 1, 2)
    assert calls[19:] == [("train end", True)]


def test_a_callback_that_stops_training_ends_the_run_with_validation(tmp_path):
    by_epoch, _ = run(tmp_path / "epoch", *built("impatient"), epochs=20)
    by_batch, _ = run(tmp_path / "batch", *built("StopAfterSecondBatch"), epochs=20)

    assert (by_epoch.epoch, by_epoch.step) == (2, 8)
    # The wish goes with the sums of the step after it.
    assert (by_batch.epoch, by_batch.step) == (1, 3)
    for state in (by_epoch, by_batch):
        assert state.ended == "a callback set model.stop_training"
        assert "val_loss" in state.history[-1]


def test_what_a_callback_remembers_and_the_rate_that_it_set_outlast_a_resume(tmp_path):
    whole, plain = run(tmp_path / "whole", *built("plateau", "Recorder"), epochs=6)
    resumed_loop = small_loop(epochs=6)
    # After three epochs of four steps: the patience is half used up.
    arrays, state = load(tmp_path / "whole" / "step-00000012")
    restore(resumed_loop.variables(), arrays, where="test")
    resumed, _ = run(tmp_path / "resumed", *built("plateau", "Recorder"), state=state, loop=resumed_loop)

    rates = [epoch["learning_rate"] for epoch in whole.history]
    # No improvement is large enough: from the second epoch on, each halves the rate of the next.
    assert rates == pytest.approx([0.05, 0.05, 0.025, 0.0125, 0.00625, 0.003125], rel=1e-5)
    assert [epoch["learning_rate"] for epoch in resumed.history] == pytest.approx(rates, rel=1e-6)
    assert resumed.callbacks == whole.callbacks
    assert whole.callbacks[1]["epochs_seen"] == 6
    assert [w.tobytes() for w in weights_of(resumed_loop)] == [w.tobytes() for w in weights_of(plain)]


def test_a_rate_set_at_the_start_of_an_epoch_is_that_of_its_steps(tmp_path):
    schedule = keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.1 / (epoch + 1))

    state, _ = run(tmp_path, schedule)

    assert [epoch["learning_rate"] for epoch in state.history] == pytest.approx([0.1, 0.05, 0.1 / 3], rel=1e-5)


def test_kerass_own_callbacks_write_their_files(tmp_path):
    csv = keras.callbacks.CSVLogger(tmp_path / "log.csv")
    saver = keras.callbacks.ModelCheckpoint(tmp_path / "kept.keras", monitor="val_loss", save_best_only=True)

    run(tmp_path / "run", csv, saver, keras.callbacks.TerminateOnNaN(), epochs=2)

    header, *lines = (tmp_path / "log.csv").read_text().splitlines()
    assert "val_accuracy" in header.split(",")
    assert len(lines) == 2
    assert keras.saving.load_model(tmp_path / "kept.keras", compile=False).output_shape == (None, 3)


class SetsTheRate(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        self.model.optimizer.learning_rate = 0.5


class Fails(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        raise KeyError("nothing")


@pytest.mark.parametrize(
    ("callback", "message"),
    [
        (SetsTheRate, "a callback set the learning rate in mid-epoch, where training.schedule sets it"),
        (Fails, "training.callbacks: Fails.on_epoch_end failed: KeyError: 'nothing'"),
    ],
)
def test_what_cannot_be_honoured_or_fails_ends_the_run_with_its_name(tmp_path, callback, message):
    with pytest.raises(TrainingError, match=message):
        run(tmp_path, callback(), epochs=1)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("WaitsForTests", "overrides on_test_begin, which tfpipe does not call"),
        ("Squares", "to be called without arguments"),
        ("top_two", "to give a Keras callback, received"),
        ("nothing", "training.callbacks: expected package.module:function that can be imported"),
    ],
)
def test_what_is_no_callback_of_ours_is_refused(name, message):
    with pytest.raises(ConfigError, match=message):
        built(name)
