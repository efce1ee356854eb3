"""Horovod's own settings, chosen from the first steps of a run."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from tfpipe.distributed import World, in_groups
from tfpipe.training.observers import Observer, StepRecord

logger = logging.getLogger(__name__)

# The first steps compile; the median of those after them is taken.
_SKIPPED_STEPS = 2
_MEASURED_STEPS = 10
# A gradient that is ready waits for half a cycle on average: at this share of a step that is 1 % of it.
_CYCLE_SHARE = 1 / 50
# Below, waking costs more than waiting saves; above, nothing more was gained on steps of one to two seconds.
_LEAST_CYCLE_MS, _MOST_CYCLE_MS = 1.0, 20.0
# A change that is worth the pause of a restart (0.2 s).
_WORTHWHILE = 1.5
_MIB = 2**20
_LEAST_FUSION_BYTES = 128 * _MIB
_LEAST_CACHE = 8192


@dataclass(frozen=True)
class HorovodSettings:
    """Settings of Horovod's background thread.

    Attributes:
        cycle_ms: Milliseconds between two looks for tensors that are ready on every worker.
        fusion_bytes: Size of the buffer in which tensors travel together.
        cache_capacity: Tensors whose negotiation is remembered.
    """

    cycle_ms: float
    fusion_bytes: int
    cache_capacity: int

    def variables(self) -> dict[str, str]:
        """As Horovod reads them from the environment.

        The fusion threshold only where it is not the default: Horovod crashes at a further start after one with both a
        cycle and a threshold.
        """
        fusion = {"HOROVOD_FUSION_THRESHOLD": str(self.fusion_bytes)} if self.fusion_bytes > _LEAST_FUSION_BYTES else {}
        return {
            "HOROVOD_CYCLE_TIME": f"{self.cycle_ms:g}",
            "HOROVOD_CACHE_CAPACITY": str(self.cache_capacity),
            **fusion,
        }


# As `tfpipe.distributed.join` starts it: Horovod's own cycle and buffer.
INITIAL = HorovodSettings(_LEAST_CYCLE_MS, _LEAST_FUSION_BYTES, _LEAST_CACHE)


def choose(*, step_s: float, gradient_bytes: Sequence[int]) -> HorovodSettings:
    """Settings for a run.

    The cycle is a fiftieth of the step, between 1 and 20 ms. The fusion buffer holds a whole group of gradients, so
    that a group is one allreduce. The cache has twice the room that the gradients take: metrics and moving statistics
    come on top, and a cache that is full negotiates every tensor anew.

    Args:
        step_s: Seconds of a step.
        gradient_bytes: Of each gradient, in the order of the variables.
    """
    cycle_ms = min(max(1000 * step_s * _CYCLE_SHARE, _LEAST_CYCLE_MS), _MOST_CYCLE_MS)
    largest_bytes = max((sum(group) for group in in_groups(gradient_bytes)), default=0)
    return HorovodSettings(
        round(cycle_ms, 1),
        max(_LEAST_FUSION_BYTES, math.ceil(largest_bytes / _MIB) * _MIB),
        max(_LEAST_CACHE, 2 * len(gradient_bytes)),
    )


def worth_a_restart(chosen: HorovodSettings, present: HorovodSettings) -> bool:
    """Whether settings differ by more than measurements do."""
    ratio = chosen.cycle_ms / present.cycle_ms
    return (
        max(ratio, 1 / ratio) >= _WORTHWHILE
        or chosen.fusion_bytes > present.fusion_bytes
        or chosen.cache_capacity > present.cache_capacity
    )


class HorovodTuning(Observer):
    """Restarts Horovod once, after the first steps, under settings that suit them; says so.

    Args:
        world: The workers. Nothing happens where one of them may not tune.
        gradient_bytes: Of each gradient, in the order of the variables.
    """

    def __init__(self, world: World, *, gradient_bytes: Sequence[int]) -> None:
        self._world, self._gradient_bytes = world, gradient_bytes
        self._steps_s: list[float] = []
        self._waiting = world.size > 1 and all(world.gather_objects(world.tunable))

    def on_step(self, record: StepRecord) -> None:
        """Measure, and act after the last step that is measured."""
        if not self._waiting:
            return
        self._steps_s.append(record.step_s)
        if len(self._steps_s) == _SKIPPED_STEPS + _MEASURED_STEPS:
            self._waiting = False
            self._tune(median(self._steps_s[_SKIPPED_STEPS:]))

    def _tune(self, step_s: float) -> None:
        # Workers wait for one another, so that their steps differ by little; one number must decide for all.
        slowest_s = max(self._world.gather_objects(step_s))
        chosen = choose(step_s=slowest_s, gradient_bytes=self._gradient_bytes)
        if not worth_a_restart(chosen, INITIAL):
            return
        self._world.restart(chosen.variables())
        if self._world.is_chief:
            logger.info(
                "horovod: steps of %.0f ms with %.1f MB of gradients in %d tensors: cycle %g ms, fusion buffer %d MiB, "
                "cache of %d tensors; HOROVOD_CYCLE_TIME and the like override",
                1000 * slowest_s,
                sum(self._gradient_bytes) / 1e6,
                len(self._gradient_bytes),
                chosen.cycle_ms,
                chosen.fusion_bytes // _MIB,
                chosen.cache_capacity,
            )
