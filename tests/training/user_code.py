"""What a user may bring: data and a model of their own."""

import os
import signal
import time
from typing import ClassVar

import keras
import numpy as np


class Squares:
    labels = ("low", "high")

    def __init__(self, num_samples):
        self._num_samples = num_samples

    def __len__(self):
        return self._num_samples

    def read(self, index):
        return np.full((6, 6, 3), 40 + 160 * (index % 2), np.uint8), index % 2


def data(split, config):
    return {"train": Squares(16), "validation": Squares(4)}.get(split)


def model(input_shape, num_classes, config):
    inputs = keras.Input(input_shape)
    pooled = keras.layers.GlobalAveragePooling2D()(inputs)
    return keras.Model(inputs, keras.layers.Dense(num_classes)(pooled))


# A loss, metrics and callbacks of one's own --------------------------------------------------------------------------


def squared_error(labels, logits):
    targets = keras.ops.one_hot(labels, logits.shape[-1])
    return keras.ops.sum(keras.ops.square(keras.ops.softmax(logits) - targets), axis=-1)


def mean_loss(labels, logits):
    return keras.ops.mean(squared_error(labels, logits))


def broken_loss(labels, logits):
    return labels.no_such_attribute


def branching_loss(labels, logits):
    losses = squared_error(labels, logits)
    return losses * 2 if keras.ops.sum(losses) > 1 else losses


def confidence(labels, probabilities):
    """A value an example: how sure the model is of the right class."""
    return keras.ops.take_along_axis(probabilities, labels[:, None], axis=-1)[:, 0]


def top_two():
    return keras.metrics.SparseTopKCategoricalAccuracy(k=2, name="top_two")


def recall_of_each_class():
    return keras.metrics.F1Score(average=None, name="f1")


class Branching(keras.metrics.Mean):
    """A metric whose Python asks what a tensor holds."""

    def update_state(self, labels, probabilities, sample_weight=None):
        if keras.ops.max(probabilities) > 0:
            super().update_state(probabilities, sample_weight=sample_weight)


class Largest(keras.metrics.Metric):
    """A metric whose state is a maximum: it cannot be added over workers."""

    def __init__(self):
        super().__init__(name="largest")
        self.value = self.add_variable((), "zeros", name="value")

    def update_state(self, labels, probabilities, sample_weight=None):
        self.value.assign(keras.ops.maximum(self.value, keras.ops.max(probabilities)))

    def result(self):
        return self.value


class Recorder(keras.callbacks.Callback):
    """Keeps what it is told, and counts the epochs it has seen over all sittings."""

    calls: ClassVar[list] = []

    def __init__(self):
        super().__init__()
        self.epochs_seen = 0

    def on_train_begin(self, logs=None):
        self.calls.append(("train begin", self.params["epochs"]))

    def on_train_batch_begin(self, batch, logs=None):
        self.calls.append(("batch begin", batch))

    def on_train_batch_end(self, batch, logs=None):
        self.calls.append(("batch end", batch))

    def on_epoch_end(self, epoch, logs=None):
        self.epochs_seen += 1
        self.calls.append(("epoch end", epoch, self.epochs_seen, sorted(logs)))

    def on_train_end(self, logs=None):
        self.calls.append(("train end", "val_loss" in logs))


class StopAfterSecondBatch(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 1:
            self.model.stop_training = True


def impatient():
    return keras.callbacks.EarlyStopping(monitor="val_loss", patience=1, min_delta=1000.0)


def plateau():
    return keras.callbacks.ReduceLROnPlateau(monitor="val_loss", patience=1, factor=0.5, min_delta=1000.0)


class WaitsForTests(keras.callbacks.Callback):
    def on_test_begin(self, logs=None):
        raise AssertionError


class StopAt(keras.callbacks.Callback):
    """Asks the run to stop after so many steps, where the environment says after how many; as a spot machine does."""

    def __init__(self):
        super().__init__()
        self._steps = 0

    def on_train_batch_end(self, batch, logs=None):
        self._steps += 1
        if str(self._steps) == os.environ.get("STOP_AT"):
            os.kill(os.getpid(), signal.SIGTERM)


class TakesItsTime(keras.callbacks.Callback):
    """Lets each epoch take so many seconds more as the environment says; as data do that come from afar."""

    def on_epoch_end(self, epoch, logs=None):
        time.sleep(float(os.environ["EPOCH_S"]))


class Insists(keras.callbacks.Callback):
    """Asks the run to stop, and again before it could, where the environment says so; as somebody without patience."""

    def on_train_batch_end(self, batch, logs=None):
        if "INSIST" in os.environ:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)


class Sleeps(keras.callbacks.Callback):
    """Hangs on one worker, in the third step."""

    every_worker = True

    def on_train_batch_end(self, batch, logs=None):
        if batch == 2 and os.environ["HOROVOD_RANK"] == "1":
            time.sleep(6.0)
