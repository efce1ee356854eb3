"""What all workers of a run must have in common; checked before the first step."""

from collections.abc import Mapping, Sequence
from typing import Any

from tfpipe.config import flatten
from tfpipe.core.errors import ConfigError, DataError
from tfpipe.data.splits import Splits
from tfpipe.distributed import World, host_name
from tfpipe.provenance import library_versions
from tfpipe.settings import Config

# Only the chief writes there, and each machine's clock may put another time into its name.
_FREE_KEYS = ("output_dir",)
# Libraries that take part in a step; others may differ from machine to machine.
_LIBRARIES = ("tfpipe", "tensorflow", "keras", "horovod", "numpy", "pillow", "simplejpeg")


def check_same_configuration(config: Config, world: World) -> None:
    """Compare what every worker was started with: its configuration and the libraries that compute a step.

    Args:
        config: As this worker read it.
        world: The workers.

    Raises:
        ConfigError: They differ; it names the keys, the values and the workers, and is the same on every worker.
    """
    mine = {key: value for key, value in flatten(config).items() if key not in _FREE_KEYS}
    versions = library_versions()
    mine |= {f"version of {name}": versions.get(name) for name in _LIBRARIES}
    hosts, everyone = zip(*world.gather_objects((host_name(), mine)), strict=True)
    lines = differences(everyone)
    if lines:
        names = [f"{rank} ({hosts[rank]})" for rank in range(world.size) if everyone[rank] != everyone[0]]
        raise ConfigError(
            f"expected the same configuration on every worker, but worker(s) {', '.join(names)} differ from worker 0 "
            f"({hosts[0]}):\n  " + "\n  ".join(lines)
        )


def differences(everyone: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line a key whose value is not the same on every worker.

    Args:
        everyone: Values by key, of each worker in rank order.
    """
    keys = dict.fromkeys(key for values in everyone for key in values)
    lines = []
    for key in keys:
        ranks_by_value: dict[str, list[int]] = {}
        for rank, values in enumerate(everyone):
            ranks_by_value.setdefault(repr(values.get(key)), []).append(rank)
        if len(ranks_by_value) > 1:
            said = [f"{value} on worker(s) {_ranks(ranks)}" for value, ranks in ranks_by_value.items()]
            lines.append(f"{key}: {', '.join(said)}")
    return lines


def check_same_data(splits: Splits, world: World) -> None:
    """Compare the fingerprints of the data that every worker opened.

    Raises:
        DataError: They differ.
    """
    hosts, prints = zip(*world.gather_objects((host_name(), splits.fingerprint)), strict=True)
    differing = [f"{rank} ({hosts[rank]})" for rank, value in enumerate(prints) if value != prints[0]]
    if differing:
        raise DataError(
            f"data.path: expected the same data on every worker, but worker(s) {', '.join(differing)} differ from "
            f"worker 0 ({hosts[0]}). Copy the data again, or share one folder."
        )


def check_enough_for_all(config: Config, num_samples: int, world: World) -> None:
    """Every worker must have a part in a full batch.

    Args:
        config: The run.
        num_samples: Training samples.
        world: The workers.

    Raises:
        ConfigError: The batch is smaller than the number of workers.
        DataError: There are fewer samples than workers.
    """
    if config.training.batch_size < world.size:
        raise ConfigError(
            f"training.batch_size: expected at least one sample a worker, received {config.training.batch_size} for "
            f"{world.size} workers. Raise it, or start fewer workers."
        )
    if num_samples < world.size:
        raise DataError(
            f"data.path: expected at least one training sample a worker, received {num_samples} for {world.size} "
            "workers. Start fewer workers."
        )


def _ranks(ranks: Sequence[int]) -> str:
    # Of a thousand workers, the first few tell enough.
    shown = ", ".join(map(str, ranks[:8]))
    return shown if len(ranks) <= 8 else f"{shown} and {len(ranks) - 8} more"
