"""Training loops small enough to be run again and again, on any world."""

import keras

from tests.models.assembled import config_of
from tests.samples import ArraySource
from tfpipe.data.pipeline import RowReader
from tfpipe.distributed import World
from tfpipe.models.assembly import assemble, build_network, build_preprocessing
from tfpipe.models.zoo import Normalization
from tfpipe.training.checkpoint_writer import CheckpointWriter
from tfpipe.training.checkpoints import CheckpointFolder, TrainingState
from tfpipe.training.loop import TrainingLoop
from tfpipe.training.signals import StopRequest

LABELS = ("a", "b", "c")


def small_loop(world=None, *, name="mlp", num_samples=26, **training):
    """A loop over a few random images of three classes, with initial weights that are always the same."""
    values = {"batch_size": 8, "epochs": 3, "optimizer": "sgd", "learning_rate": 0.05, "schedule": "constant"}
    config = config_of(name, (4, 4), training={**values, **training})
    keras.utils.set_random_seed(0)
    network = build_network(config, len(LABELS))
    parts = assemble(build_preprocessing(config.preprocessing, Normalization((0.5,), (0.2,))), network, LABELS)
    readers = [
        RowReader(
            ArraySource(size, LABELS, size=(4, 4)), parts.preprocessing.resize, max_pixels=100, cache="none", threads=1
        )
        for size in (num_samples, 10)
    ]
    return TrainingLoop(parts, config, world or World(), *readers, StopRequest())


def trained(loop, folder, *, observers=(), state=None):
    """Run a loop to its end; gives its state."""
    state = state or TrainingState()
    loop.start_together()
    with CheckpointWriter(CheckpointFolder(folder, keep=100)) as writer:
        loop.run(state, writer, observers)
    return state


def weights_of(loop):
    return [variable.numpy() for variable in loop.parts.network.trainable_variables]
