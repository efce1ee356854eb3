"""Whether a GPU has room for the next batch: a request that it has none for is refused before it is read."""

import math
import time
from collections.abc import Callable, Sequence

import numpy as np

from serving.gpu import ReadGpus
from tfpipe.core.signature import TensorSpec

GPU_PROVIDERS = ("cuda", "tensorrt")
# NVML takes some ten microseconds a reading, and memory does not change with every request.
_READ_EVERY_S = 0.25


class GpuMemory:
    """Free memory of the GPU that ONNX Runtime uses, which is the first; on the event loop."""

    def __init__(self, gpus: ReadGpus | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Read nothing.

        Args:
            gpus: Reads the GPUs; None where there is none.
            clock: Seconds that only go forward.
        """
        self._gpus, self._clock = gpus, clock
        self._read_s, self._free_bytes = -math.inf, math.inf

    def check(self, needed_bytes: int) -> None:
        """Refuse what there is no room for.

        Raises:
            MemoryError: Less is free than is needed.
        """
        free_bytes = self._free()
        if free_bytes < needed_bytes:
            raise MemoryError(
                f"GPU: expected {needed_bytes} free bytes for the next batch, there are {free_bytes:.0f}."
            )

    def _free(self) -> float:
        now_s = self._clock()
        if self._gpus is not None and now_s - self._read_s >= _READ_EVERY_S:
            readings = self._gpus()
            free_bytes = readings[0].memory_free_bytes if readings else None
            self._read_s, self._free_bytes = now_s, math.inf if free_bytes is None else free_bytes
        return self._free_bytes


def batch_bytes(specs: Sequence[TensorSpec], *, rows: int, length: int) -> int:
    """Bytes of the arrays of a batch.

    What the model needs between them is not in it: its sessions were warmed at the largest batch and keep what they
    took, so that a batch asks the GPU for its inputs and outputs at most.

    Args:
        specs: Inputs and outputs.
        rows: For the first axis.
        length: For every other axis whose length is open.
    """
    return sum(
        rows * math.prod(axis if isinstance(axis, int) else length for axis in spec.shape[1:]) * _item_bytes(spec)
        for spec in specs
    )


def _item_bytes(spec: TensorSpec) -> int:
    # Strings stay on the processor.
    return 0 if spec.dtype in ("string", "object") else np.dtype(spec.dtype).itemsize
