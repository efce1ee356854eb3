"""Training over N workers against training on one: the same samples, steps and seeds."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models.assembled import config_of
from tests.samples import ArraySource
from tfpipe.data.pipeline import RowReader, training_batches
from tfpipe.distributed import World
from tfpipe.models.assembly import assemble, build_network, build_preprocessing
from tfpipe.models.zoo import Normalization
from tfpipe.training.loop import TrainingLoop
from tfpipe.training.signals import StopRequest

SIZE = (4, 4)
LEARNING_RATE = 0.01
# The N sums of a step are the same float32 numbers added in another order, 1e-7 apart in relative terms; a few steps of
# SGD add that up. Adam divides by the gradient's own size: where a gradient is nothing but rounding (1e-9 against its
# epsilon of 1e-7), the update may differ by a hundredth of the learning rate a step.
TOLERANCE = {"sgd": 2e-6, "adam": 0.05 * LEARNING_RATE, "adamw": 0.05 * LEARNING_RATE}

LOOPS = {}
READERS = {}


def loop_of(world, optimizer, momentum, accumulation_steps):
    """A run without dropout and batch normalisation; its initial variables; made once, as compiling takes long."""
    key = (world.size, optimizer, momentum, accumulation_steps)
    if key not in LOOPS:
        training = {"optimizer": optimizer, "momentum": momentum, "accumulation_steps": accumulation_steps,
                    "batch_size": 12, "weight_decay": 0.01 if optimizer == "adamw" else 0.0}  # fmt: skip
        config = config_of("mlp", SIZE, training=training)
        keras.utils.set_random_seed(0)
        network = build_network(config, 3)
        preprocessing = build_preprocessing(config.preprocessing, Normalization((0.5,), (0.2,)))
        parts = assemble(preprocessing, network, ("a", "b", "c"))
        loop = TrainingLoop(parts, config, world, reader_of(12), None, StopRequest())
        LOOPS[key] = loop, {name: [v.numpy() for v in group] for name, group in loop.variables().items()}
    return LOOPS[key]


def reader_of(num_samples):
    if num_samples not in READERS:
        resize = build_preprocessing(config_of("mlp", SIZE).preprocessing, Normalization((0.5,), (0.2,))).resize
        source = ArraySource(num_samples, size=SIZE)
        READERS[num_samples] = RowReader(source, resize, max_pixels=100, cache="memory", threads=1)
    return READERS[num_samples]


def trained(world, recipe, *, num_samples, batch_size, seed, epochs):
    """Weights and losses after training from the same start."""
    loop, initial = loop_of(world, *recipe)
    for name, group in loop.variables().items():
        for variable, value in zip(group, initial[name], strict=True):
            variable.assign(value)
    step, losses = loop.training_step.at(0), []
    for epoch in range(epochs):
        reader = reader_of(num_samples)
        for batch in training_batches(reader, batch_size=batch_size, seed=seed, epoch=epoch, world=world):
            sums, *_ = step(*batch, [0.0, 0.0], LEARNING_RATE)
            losses.append(float(sums[1] / sums[0]))
    return [variable.numpy() for variable in loop.variables()["model"]], losses


# Feature: deep-learning-pipeline, Property 4: Distributed equivalence
def test_training_on_all_workers_gives_the_model_and_the_losses_of_one(world, agreed):
    @settings(max_examples=100, deadline=None, derandomize=True, database=None)
    @given(
        recipe=st.sampled_from(
            [(name, momentum, pieces) for name, momentum in (("sgd", 0.0), ("sgd", 0.9), ("adam", 0.0), ("adamw", 0.0))
             for pieces in (1, 3)]
        ),
        num_samples=st.sampled_from([world.size, 7, 12, 25]),
        batch_size=st.integers(world.size, 12),
        seed=st.integers(0, 2**31 - 1),
        epochs=st.integers(1, 2),
    )  # fmt: skip
    def holds(recipe, **run):
        together, losses = trained(world, recipe, **run)
        # The others need not: it is the same for all.
        alone, losses_alone = trained(World(), recipe, **run) if world.is_chief else (together, losses)

        def assertions():
            for mine, reference in zip(together, alone, strict=True):
                np.testing.assert_allclose(mine, reference, rtol=1e-5, atol=TOLERANCE[recipe[0]])
            assert losses == pytest.approx(losses_alone, rel=1e-3, abs=1e-4)

        agreed(assertions)

    holds()
