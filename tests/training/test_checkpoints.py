import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.full_disk import files_of_at_most
from tests.samples import ArraySource
from tfpipe.config import parse_config
from tfpipe.core.errors import CheckpointError, TrainingError
from tfpipe.data.pipeline import RowReader, training_batches
from tfpipe.distributed import World
from tfpipe.models.assembly import assemble, build_network, build_preprocessing
from tfpipe.models.zoo import Normalization
from tfpipe.training.checkpoints import CheckpointFolder, TrainingState, load, named_arrays, restore
from tfpipe.training.loop import TrainingLoop
from tfpipe.training.signals import StopRequest

pytestmark = pytest.mark.tensorflow

NUM_SAMPLES = 12
OPTIMIZERS = ("sgd", "adam", "adamw")
LOOPS = {}


def new_loop(optimizer, accumulation_steps=1):
    """A small run with everything that has state: slots, batch norm, dropout's seed generator."""
    values = {
        "data": {"path": "digits"},
        "preprocessing": {"image_size": [4, 4], "normalization": "none"},
        "model": {"name": "tests.training.tiny:network"},
        "training": {"optimizer": optimizer, "batch_size": 6, "accumulation_steps": accumulation_steps},
    }
    config = parse_config(values, where="test")
    network = build_network(config, 2)
    parts = assemble(build_preprocessing(config.preprocessing, Normalization((0.0,), (1.0,))), network, ("a", "b"))
    source = ArraySource(NUM_SAMPLES, size=(4, 4))
    reader = RowReader(source, parts.preprocessing.resize, max_pixels=100, cache="memory", threads=1)
    return TrainingLoop(parts, config, World(), reader, None, StopRequest()), reader


def loops(optimizer, accumulation_steps):
    """Two equal runs, made once for each setting: making one takes a second."""
    key = (optimizer, accumulation_steps)
    if key not in LOOPS:
        LOOPS[key] = (new_loop(*key), new_loop(*key))
    return LOOPS[key]


def train_one_step(loop, reader, epoch):
    batch = next(iter(training_batches(reader, batch_size=6, seed=epoch, epoch=epoch, world=World())))
    loop.training_step.at(0)(*batch, [0.0, 0.0], 0.01)


def randomise(loop, seed):
    rng = np.random.default_rng(seed)
    for members in loop.variables().values():
        for variable in members:
            if variable.dtype.startswith("float"):
                variable.assign(rng.uniform(0.1, 1.0, variable.shape))
            else:
                variable.assign(rng.integers(0, 1000, variable.shape))


STATES = st.builds(
    TrainingState,
    epoch=st.integers(0, 1000),
    step_in_epoch=st.integers(0, 1000),
    step=st.integers(0, 10**6),
    learning_rate=st.floats(0, 1),
    run_id=st.none() | st.text("0123456789abcdef", min_size=32, max_size=32),
    best_value=st.none() | st.floats(0, 1),
    best_epoch=st.none() | st.integers(0, 1000),
    epochs_without_improvement=st.integers(0, 10),
    epoch_totals=st.lists(st.floats(0, 1e6), min_size=4, max_size=4),
    corrupt_samples=st.floats(0, 100),
    history=st.lists(st.dictionaries(st.sampled_from(["loss", "val_loss", "accuracy"]), st.floats(0, 1)), max_size=3),
    wall_time_s=st.floats(0, 1e5),
    samples_seen=st.floats(0, 1e9),
)


# Feature: deep-learning-pipeline, Property 3: Checkpoint round trip
@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    optimizer=st.sampled_from(OPTIMIZERS),
    accumulation_steps=st.sampled_from([1, 2]),
    state=STATES,
    seed=st.integers(0, 2**31 - 1),
    steps_after=st.integers(1, 2),
)
def test_training_goes_on_from_exactly_the_same_point(
    tmp_path_factory, optimizer, accumulation_steps, state, seed, steps_after
):
    (first, reader), (second, second_reader) = loops(optimizer, accumulation_steps)
    randomise(first, seed)
    randomise(second, seed + 1)
    folder = CheckpointFolder(tmp_path_factory.mktemp("run"), keep=2)

    folder.save(first.variables(), state)
    path, arrays, restored = folder.load_newest()
    restore(second.variables(), arrays, where=str(path))

    assert restored == state
    assert_same(first, second)
    for step in range(steps_after):
        train_one_step(first, reader, step)
        train_one_step(second, second_reader, step)
    assert_same(first, second)


# Feature: deep-learning-pipeline, Property 7: Checkpoint content
@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    optimizer=st.sampled_from(OPTIMIZERS),
    states=st.lists(STATES, min_size=1, max_size=4, unique_by=lambda state: state.step),
    keep=st.integers(1, 3),
    best=st.integers(0, 3),
)
def test_every_checkpoint_holds_weights_optimizer_state_and_metadata(tmp_path_factory, optimizer, states, keep, best):
    loop, _ = loops(optimizer, 1)[0]
    states = sorted(states, key=lambda state: state.step)
    best = min(best, len(states) - 1)
    root = tmp_path_factory.mktemp("run")
    folder = CheckpointFolder(root, keep=keep)

    for position, state in enumerate(states):
        folder.save(loop.variables(), state, best=position == best)

    kept = sorted(root.iterdir())
    by_step = {f"step-{state.step:08d}": state for state in states}
    newest = list(by_step)[-keep:]
    assert [path.name for path in kept] == sorted({*newest, list(by_step)[best]})
    for path in kept:
        arrays, state = load(path)
        names = {name.partition("/")[0] for name in arrays}
        assert names == {"model", "optimizer"}
        assert len(arrays) == len(loop.parts.model.variables) + len(loop.optimizer.variables)
        assert any(name.endswith("seed_generator_state") for name in arrays)
        assert any(name.endswith("moving_mean") for name in arrays)
        assert any(name.endswith("iteration") for name in arrays)
        metadata = json.loads((path / "state.json").read_text())["state"]
        assert metadata["epoch"] == by_step[path.name].epoch
        assert metadata["learning_rate"] == by_step[path.name].learning_rate
        assert state == by_step[path.name]


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path, caplog):
    loop, _ = loops("sgd", 1)[0]
    folder = CheckpointFolder(tmp_path, keep=3)
    for step in (1, 2):
        folder.save(loop.variables(), TrainingState(step=step))
    damaged = tmp_path / "step-00000002" / "variables.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)

    path, _, state = folder.load_newest()

    assert (path.name, state.step) == ("step-00000001", 1)
    assert "damaged" in caplog.text


@pytest.mark.parametrize("name", ["variables.safetensors", "state.json", "state.json.sha256"])
def test_a_checkpoint_without_one_of_its_files_is_refused(tmp_path, name):
    loop, _ = loops("sgd", 1)[0]
    path = CheckpointFolder(tmp_path, keep=3).save(loop.variables(), TrainingState(step=1))
    (path / name).unlink()

    with pytest.raises(CheckpointError, match="damaged"):
        load(path)


def test_a_checkpoint_of_another_model_is_refused_and_nothing_is_assigned():
    loop, _ = loops("sgd", 1)[0]
    arrays = named_arrays(loop.variables())
    name = next(name for name in arrays if name.endswith("/kernel"))
    arrays[name] = np.zeros((1, 2, 3, 4), np.float32)
    before = named_arrays(loop.variables())

    with pytest.raises(CheckpointError, match=r"kernel: expected shape .*, found \(1, 2, 3, 4\).* of another model"):
        restore(loop.variables(), arrays, where="here")

    assert all((value == before[name]).all() for name, value in named_arrays(loop.variables()).items())


def test_a_failed_save_leaves_the_earlier_checkpoints(tmp_path):
    loop, _ = loops("sgd", 1)[0]
    folder = CheckpointFolder(tmp_path, keep=1)
    folder.save(loop.variables(), TrainingState(step=1))

    with pytest.raises(AttributeError):
        folder.save({"model": [object()]}, TrainingState(step=2))

    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


@pytest.mark.parametrize("limit_bytes", [100, 1500])
def test_a_full_disk_is_one_sentence_and_leaves_the_earlier_checkpoints(tmp_path, limit_bytes):
    loop, _ = loops("sgd", 1)[0]
    folder = CheckpointFolder(tmp_path, keep=1)
    folder.save(loop.variables(), TrainingState(step=1))

    with (
        pytest.raises(TrainingError, match=r"the checkpoint of step 2 cannot be written: .*(too large|No space)"),
        files_of_at_most(limit_bytes),
    ):
        folder.save(loop.variables(), TrainingState(step=2))

    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert load(tmp_path / "step-00000001")[1].step == 1


def assert_same(first, second):
    ours, theirs = named_arrays(first.variables()), named_arrays(second.variables())
    for one, other in zip(ours.values(), theirs.values(), strict=True):
        assert one.tobytes() == other.tobytes()
