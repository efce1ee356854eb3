"""Pruning: how sparse the weights are at each step, what stays 0, and that a run is the same however it is cut."""

import itertools

import keras
import numpy as np
import pytest

from tests.training.loops import small_loop, trained, weights_of
from tfpipe.config import load_config
from tfpipe.core.errors import ConfigError
from tfpipe.core.sparsity import num_pruned, zeros
from tfpipe.training.averaging import averaged
from tfpipe.training.checkpoints import CheckpointFolder, load, restore
from tfpipe.training.observers import Observer
from tfpipe.training.pruning import prunable_kernels
from tfpipe.training.run import restore_best

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]

# 4 steps an epoch and 3 epochs: pruned before the updates after 2, 3, ... and 8 others.
PRUNING = {"sparsity": 0.8, "start": 0.1, "end": 0.67, "every_steps": 1}


def counts(loop):
    return [zeros(kernel.numpy()) for kernel in loop.pruning.kernels]


def expected_counts(loop, level):
    return [num_pruned(kernel.numpy().size, level) for kernel in loop.pruning.kernels]


class Watch(Observer):
    def __init__(self, loop):
        self.loop, self.seen = loop, []

    def on_step(self, record):
        self.seen.append(counts(self.loop))


@pytest.mark.parametrize(
    "training",
    [
        {"momentum": 0.9, "weight_decay": 0.1},
        {"optimizer": "adamw", "weight_decay": 0.1, "accumulation_steps": 3, "layer_decay": 0.7},
        {"optimizer": "adam", "gradient_clip_norm": 0.5, "ema_momentum": 0.5},
        {"rematerialization": "segments"},
    ],
    ids=lambda training: ",".join(training),
)
def test_after_each_update_the_kernels_are_as_sparse_as_the_schedule_says(tmp_path, training, caplog):
    loop = small_loop(pruning=PRUNING, **training)
    watch = Watch(loop)

    state = trained(loop, tmp_path, observers=[watch])

    levels = [loop.pruning.schedule.at(step) for step in range(state.step)]
    assert watch.seen == [expected_counts(loop, level) for level in levels]
    assert (levels[0], levels[-1]) == (0.0, 0.8)
    assert [row["sparsity"] for row in state.history] == pytest.approx([levels[3], levels[7], 0.8], abs=0.01)
    # TensorFlow says so where it cannot compile what a step does.
    assert "AutoGraph" not in caplog.text
    # Biases train on as ever.
    assert all(np.count_nonzero(array) for array in weights_of(loop) if array.ndim == 1)


def test_what_is_pruned_stays_so_and_the_others_train_on(tmp_path):
    loop = small_loop(pruning=PRUNING, checkpoint_steps=1)

    trained(loop, tmp_path)

    kernels = [
        [array for name, array in sorted(load(path)[0].items()) if name.startswith("model/") and "kernel" in name]
        for path in sorted(tmp_path.glob("step-*"))
    ]
    assert len(kernels) > 2
    for earlier, later in itertools.pairwise(kernels):
        for before, after in zip(earlier, later, strict=True):
            assert not np.any(after[before == 0])
            assert np.any(after[after != 0] != before[after != 0])


def test_the_average_of_the_weights_is_as_sparse_as_they_are(tmp_path):
    loop = small_loop(pruning=PRUNING, ema_momentum=0.9)

    trained(loop, tmp_path)

    with averaged(loop.optimizer):
        assert counts(loop) == expected_counts(loop, 0.8)


@pytest.mark.parametrize("stopped_after", [2, 6, 10])
def test_a_resumed_run_equals_one_that_was_not_stopped(tmp_path, stopped_after):
    options = {"pruning": PRUNING | {"every_steps": 3}, "checkpoint_steps": 1, "momentum": 0.9, "ema_momentum": 0.9}
    whole, resumed = small_loop(**options), small_loop(**options)
    ended = trained(whole, tmp_path / "whole")

    arrays, state = load(tmp_path / "whole" / f"step-{stopped_after:08d}")
    restore(resumed.variables(), arrays, where="test")
    again = trained(resumed, tmp_path / "resumed", state=state)

    for group in ("model", "optimizer"):
        pairs = zip(resumed.variables()[group], whole.variables()[group], strict=True)
        assert all(np.array_equal(a.numpy(), b.numpy()) for a, b in pairs)
    assert (again.best_epoch, again.best_value) == (ended.best_epoch, ended.best_value)


def test_the_best_epoch_is_one_after_the_last_pruning(tmp_path):
    # It overfits: an early epoch has the best validation loss, and early stopping would end the run at once.
    options = {"learning_rate": 0.5, "epochs": 6, "early_stopping_epochs": 1}
    dense, loop = small_loop(**options), small_loop(pruning=PRUNING, **options)

    free, state = trained(dense, tmp_path / "dense"), trained(loop, tmp_path / "sparse")

    assert free.best_epoch < 3
    assert state.best_epoch >= 4
    assert loop.pruning.is_complete(4 * (state.best_epoch + 1))
    saved = CheckpointFolder(tmp_path / "sparse", keep=3)
    assert restore_best(loop, saved, state) == state.best_epoch
    assert counts(loop) == expected_counts(loop, 0.8)


def test_a_run_that_ends_before_its_schedule_is_pruned_at_once_and_says_so(tmp_path, caplog):
    class EndsIt(Observer):
        def end_reason(self):
            return "a test"

    loop = small_loop(pruning=PRUNING)
    state = trained(loop, tmp_path, observers=[EndsIt()])
    assert state.best_epoch is None

    assert restore_best(loop, CheckpointFolder(tmp_path, keep=3), state) == 0
    loop.pruning.complete()

    assert counts(loop) == expected_counts(loop, 0.8)
    assert "the run ended before its schedule" in caplog.text
    caplog.clear()
    loop.pruning.complete()
    assert not caplog.text


def test_loss_scaling_that_skips_a_step_keeps_what_is_pruned(tmp_path):
    loop = small_loop(
        pruning=PRUNING, precision="mixed_float16", allow_slow_precision=True, learning_rate=0.01, num_samples=16
    )
    loop.optimizer.loss_scale.assign(3e38)
    watch = Watch(loop)

    state = trained(loop, tmp_path, observers=[watch])

    assert int(loop.optimizer.iterations) < state.step
    assert watch.seen == [expected_counts(loop, loop.pruning.schedule.at(step)) for step in range(state.step)]


def test_kernels_are_pruned_but_no_biases_norms_tables_or_depthwise_convolutions():
    inputs = keras.Input((8,), dtype="int32")
    x = keras.layers.Embedding(10, 4, name="table")(inputs)
    x = keras.layers.LayerNormalization(name="norm")(x)
    x = keras.layers.MultiHeadAttention(2, 2, name="attention")(x, x)
    x = keras.layers.LSTM(4, return_sequences=True, name="lstm")(x)
    x = keras.layers.SeparableConv1D(4, 3, name="separable")(x)
    x = keras.layers.DepthwiseConv1D(3, name="depthwise")(x)
    x = keras.layers.Conv1D(4, 2, name="conv")(x)
    inner = keras.Sequential([keras.layers.Dense(3, name="dense")], name="inner")
    network = keras.Model(inputs, inner(x))

    paths = [kernel.path for kernel in prunable_kernels(network)]

    assert [path.split("/")[-2] + "/" + path.split("/")[-1] for path in paths] == [
        "query/kernel", "key/kernel", "value/kernel", "attention_output/kernel", "lstm_cell/kernel",
        "lstm_cell/recurrent_kernel", "separable/pointwise_kernel", "conv/kernel", "dense/kernel",
    ]  # fmt: skip


def test_a_kernel_that_begins_at_zero_learns_until_pruning_begins(tmp_path):
    loop = small_loop(pruning=PRUNING)
    head = loop.pruning.kernels[-1]
    head.assign(np.zeros(head.shape, np.float32))
    watch = Watch(loop)

    trained(loop, tmp_path, observers=[watch])

    # A row whose input is never above 0 has no gradient.
    assert watch.seen[0][-1] < 0.5 * head.numpy().size
    assert watch.seen[-1] == expected_counts(loop, 0.8)


def test_a_run_that_does_not_prune_has_no_figure_of_it():
    assert small_loop().pruning.figures() == {}


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["training.pruning.sparsity=1"], "training.pruning.sparsity: expected less than 1, received 1"),
        (["training.pruning.sparsity=-0.1"], "training.pruning.sparsity: expected greater than or equal to 0"),
        (["training.pruning.sparsity=half"], "training.pruning.sparsity: expected a valid number"),
        (["training.pruning.every_steps=0"], "training.pruning.every_steps: expected greater than or equal to 1"),
        (["training.pruning.start=0.7"], "training.pruning.start and training.pruning.end: expected that start is"),
        (["training.pruning.target=0.5"], "training.pruning.target: unknown key. Did you mean 'training.pruning.start"),
        (
            ["training.pruning.sparsity=0.5", "model.freeze_backbone=true"],
            "pruning goes with freeze_backbone=false: weights that do not train",
        ),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_is_refused(overrides, sentence):
    with pytest.raises(ConfigError, match=sentence):
        load_config(None, overrides)


def test_a_model_without_kernels_is_refused():
    with pytest.raises(ConfigError, match="expected a model with kernels of dense, convolutional or recurrent layers"):
        small_loop(name="tests.training.test_pruning:without_kernels", pruning=PRUNING)


def without_kernels(input_shape, num_classes, config):
    inputs = keras.Input(input_shape)
    pooled = keras.layers.GlobalAveragePooling2D()(inputs)
    return keras.Model(inputs, keras.layers.BatchNormalization()(pooled))
