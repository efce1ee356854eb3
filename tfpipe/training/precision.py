"""The Keras dtype policy of a run: what the device is made for, proved on the run's own model.

Float32 with bfloat16 arithmetic inside oneDNN is not among the candidates: TF_SET_ONEDNN_FPMATH_MODE is read once in a
process, before the first operation.
"""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import keras
import numpy as np
import tensorflow as tf

from tfpipe.config import load_config
from tfpipe.core.errors import ConfigError
from tfpipe.data.pipeline import Batch, Reader, batch_specs, example_batch
from tfpipe.distributed import World
from tfpipe.models.assembly import Parts
from tfpipe.settings import Config
from tfpipe.tasks.task import LOSS
from tfpipe.training.pruning import MagnitudePruning
from tfpipe.training.recipe import build_optimizer
from tfpipe.training.step import TrainingStep
from tfpipe.training_settings import TrainingConfig

logger = logging.getLogger(__name__)

_STEPS = 5
# A trial of a large model on a slow device ends after so many seconds, whatever it has measured by then.
_TRIAL_S = 60.0
# Less than this gain is within the noise of a few steps.
_LEAST_GAIN = 1.05
# Flags of /proc/cpuinfo: bfloat16 dot products in AVX-512, and in AMX tiles.
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_bf16"}


@dataclass(frozen=True)
class Device:
    """What a worker trains on.

    Attributes:
        name: For messages.
        compute_capability: Of its GPU; None: no GPU.
        bfloat16: Whether the CPU computes in bfloat16.
    """

    name: str
    compute_capability: tuple[int, int] | None = None
    bfloat16: bool = False


@dataclass(frozen=True)
class Trial:
    """A few steps of training.

    Attributes:
        step_s: Median seconds of a step.
        finite: Whether every loss and gradient norm was finite.
    """

    step_s: float
    finite: bool


def present_device(cpuinfo: Path = Path("/proc/cpuinfo")) -> Device:
    """The device that this process trains on: its first visible GPU, else the CPU."""
    gpus = tf.config.get_visible_devices("GPU")
    if gpus:
        details = tf.config.experimental.get_device_details(gpus[0])
        return Device(details.get("device_name", "GPU"), tuple(details.get("compute_capability", (0, 0))))
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    flags = {flag for line in lines if line.startswith("flags") for flag in line.split()}
    return Device("CPU", bfloat16=bool(flags & _BFLOAT16_FLAGS))


def candidate(device: Device) -> str:
    """The policy that a device is made for.

    Source: NVIDIA, "Train With Mixed Precision": float16 Tensor Cores from compute capability 7.0, bfloat16 from 8.0.
    """
    if device.compute_capability is None:
        return "mixed_bfloat16" if device.bfloat16 else "float32"
    if device.compute_capability >= (8, 0):
        return "mixed_bfloat16"
    return "mixed_float16" if device.compute_capability >= (7, 0) else "float32"


def check(config: TrainingConfig, device: Device | None = None) -> None:
    """Refuse what would only waste time.

    Args:
        config: The run's.
        device: None: that of this process.

    Raises:
        ConfigError: float16 without a GPU.
    """
    if config.precision != "mixed_float16" or config.allow_slow_precision:
        return
    if (device or present_device()).compute_capability is None:
        raise ConfigError(
            "training.precision: expected float32, mixed_bfloat16 or auto where there is no GPU, received "
            "'mixed_float16', which CPUs emulate: up to 50 times slower than float32. Choose another one, or set "
            "training.allow_slow_precision=true."
        )


def decide(mixed: str, device: Device, trials: Mapping[str, Sequence[Trial]]) -> tuple[str, str]:
    """The faster of float32 and a mixed policy.

    Args:
        mixed: The policy that was tried against float32.
        device: For the reason.
        trials: Of every worker, by policy.

    Returns:
        The policy, and the reason in a few words.
    """
    # Workers wait for the slowest.
    mixed_s, plain_s = (max(trial.step_s for trial in trials[policy]) for policy in (mixed, "float32"))
    times = f"{mixed} {1000 * mixed_s:.1f} ms a step, float32 {1000 * plain_s:.1f} ms"
    if not all(trial.finite for trial in trials[mixed]):
        return "float32", f"{mixed} gave a loss or gradient that is not finite"
    if mixed_s * _LEAST_GAIN > plain_s:
        return "float32", f"{times}: not faster on {device.name}"
    return mixed, f"{times}: {plain_s / mixed_s:.2f} times as fast on {device.name}"


def resolve(config: Config, build: Callable[[Config], Parts], train: Reader, world: World) -> Config:
    """The configuration with `auto` replaced by what a few steps prove to be best; the same on every worker.

    Args:
        config: The run; its precision is `auto`.
        build: Makes a model that computes as much as that of the run.
        train: Samples to try with.
        world: The workers.
    """
    given = config.training
    device = world.broadcast_object(present_device())
    mixed = candidate(device)
    if mixed == "float32":
        chosen, reason = mixed, f"{device.name} has no faster arithmetic for training"
    else:
        size = math.ceil(given.batch_size / world.size)
        # On every worker: names of layers are counted in a process, and Horovod matches variables by name.
        trials = {
            policy: world.gather_objects(_trial(with_precision(config, policy), build, train, size))
            for policy in ("float32", mixed)
        }
        chosen, reason = decide(mixed, device, trials)
    if world.is_chief:
        logger.info("precision: %s; %s", chosen, reason)
    # As though there had been no trial.
    keras.utils.set_random_seed(given.seed)
    return with_precision(config, chosen)


def recorded(config: Config, saved: Path) -> Config:
    """For a run that is resumed: `auto` means what it was resolved to at the start.

    Args:
        config: As given.
        saved: The run's config.yaml.
    """
    if config.training.precision != "auto" or not saved.is_file():
        return config
    return with_precision(config, load_config(saved).training.precision)


def with_precision(config: Config, precision: str) -> Config:
    """The configuration under another policy."""
    training = config.training.model_copy(update={"precision": precision})
    return config.model_copy(update={"training": training})


def _trial(config: Config, build: Callable[[Config], Parts], train: Reader, batch_size: int) -> Trial:
    """Steps of a model that is thrown away, alone, on samples of the run; batch_size is one worker's."""
    keras.mixed_precision.set_global_policy(config.training.precision)
    parts = build(config)
    optimizer = build_optimizer(config.training, parts.network, World())
    pruning = MagnitudePruning(config.training, parts.network, optimizer, steps_per_epoch=1)
    step = TrainingStep(parts, config, optimizer, pruning, batch_specs(train))
    return _timed_steps(step, example_batch(train, batch_size), config.training.learning_rate)


def _timed_steps(step: TrainingStep, batch: Batch, learning_rate: float) -> Trial:
    function = step.at(0)
    seconds, finite, deadline = [], True, time.monotonic() + _TRIAL_S
    # The first one compiles.
    for number in range(_STEPS + 1):
        started = time.perf_counter()
        # A small step, so that no setting of the learning rate can spoil the loss that is judged.
        sums, norm, _ = function(*batch, np.zeros(2, np.float32), min(learning_rate, 1e-4))
        finite = finite and math.isfinite(float(sums[LOSS])) and (math.isfinite(float(norm)) or step.optimizer.scaled)
        if number:
            seconds.append(time.perf_counter() - started)
        if seconds and time.monotonic() > deadline:
            break
    return Trial(median(seconds), finite)
