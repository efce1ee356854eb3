"""Where the time of several workers goes, measured over real steps."""

import time

import numpy as np

from tests.samples import ArraySource
from tfpipe.config import parse_config
from tfpipe.data.pipeline import RowReader
from tfpipe.models.assembly import assemble, build_network, build_preprocessing
from tfpipe.models.zoo import Normalization
from tfpipe.training.checkpoint_writer import CheckpointWriter
from tfpipe.training.checkpoints import CheckpointFolder, TrainingState, named_arrays
from tfpipe.training.loop import TrainingLoop
from tfpipe.training.observers import Observer
from tfpipe.training.signals import StopRequest
from tfpipe.training.telemetry import Telemetry

SLOW_RANK = 1
# Well above what a step computes, on a machine with other work too.
DELAY_S = 0.3


class Sluggish(ArraySource):
    """A disk that takes its time."""

    def read(self, index):
        time.sleep(DELAY_S)
        return super().read(index)


class WeightsAt(Observer):
    """Keeps the variables as they are when training begins."""

    def __init__(self, loop):
        self._loop, self.arrays = loop, {}

    def on_train_begin(self):
        self.arrays = named_arrays(self._loop.variables())


def new_loop(world):
    """One sample a worker and step, of everything that has state: slots, batch norm, dropout's seed."""
    values = {
        "data": {"path": "digits"},
        "preprocessing": {"image_size": [4, 4], "normalization": "none"},
        "model": {"name": "tests.training.tiny:network"},
        "training": {"optimizer": "adamw", "batch_size": world.size, "epochs": 1},
    }
    config = parse_config(values, where="test")
    parts = assemble(
        build_preprocessing(config.preprocessing, Normalization((0.0,), (1.0,))), build_network(config, 2), ("a", "b")
    )
    source = (Sluggish if world.rank == SLOW_RANK else ArraySource)(12 * world.size, size=(4, 4))
    reader = RowReader(source, parts.preprocessing.resize, max_pixels=100, cache="none", threads=1)
    return TrainingLoop(parts, config, world, reader, None, StopRequest())


def test_a_worker_that_reads_slowly_is_named_and_the_others_are_seen_waiting_for_it(world, agreed, tmp_path):
    loop = new_loop(world)
    loop.start_together()
    state, before, after = TrainingState(), WeightsAt(loop), WeightsAt(loop)

    with CheckpointWriter(CheckpointFolder(tmp_path / str(world.rank), keep=1)) as writer:
        loop.run(state, writer, [before, Telemetry(loop, state), after])
    everyone = world.gather_objects(state.history)
    changed = [name for name, array in before.arrays.items() if array.tobytes() != after.arrays[name].tobytes()]

    def assertions():
        # What a worker reaches alone was measured with steps of the real optimizer; no trace of them is left.
        assert before.arrays
        assert changed == []
        (metrics,) = everyone[0]
        for name in ("slowest_rank", "scaling_efficiency", "rank_0/input_share", "gradient_norm_p95"):
            assert len({history[0][name] for history in everyone}) == 1
        assert metrics["slowest_rank"] == SLOW_RANK
        shares = [
            (metrics[f"rank_{r}/input_share"], metrics[f"rank_{r}/communication_share"]) for r in range(world.size)
        ]
        for rank, (in_input, in_communication) in enumerate(shares):
            if rank == SLOW_RANK:
                assert in_input > 0.5 > in_communication
            else:
                assert in_communication > 0.5 > in_input
        # Alone, two of the three would not have waited.
        assert 0.0 < metrics["scaling_efficiency"] < 0.8
        assert np.isclose(sum(metrics[f"{name}_share"] for name in ("input", "compute", "communication", "other")), 1.0)

    agreed(assertions)
