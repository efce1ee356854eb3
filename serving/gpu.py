"""What the GPUs do, read through NVML where a driver is there."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import pynvml

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class GpuReading:
    """One GPU at one moment; None where the GPU does not tell.

    Attributes:
        index: NVML's index, from 0.
        utilization: Share of the last sample period with a kernel running, 0..1.
        memory_used_bytes: Device memory in use, by all processes.
        power_watts: Current draw.
        temperature_celsius: Of the chip.
    """

    index: int
    utilization: float | None
    memory_used_bytes: float | None
    power_watts: float | None
    temperature_celsius: float | None


ReadGpus = Callable[[], list[GpuReading]]


def open_nvml() -> ReadGpus | None:
    """A function that reads every GPU; None where NVML finds no driver."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return _read_all


def _read_all() -> list[GpuReading]:
    try:
        return [_read(index) for index in range(pynvml.nvmlDeviceGetCount())]
    except pynvml.NVMLError as error:
        # A GPU that fell off the bus must not take the other metrics with it.
        logger.warning("GPUs cannot be read", extra={"fields": {"error": str(error)}})
        return []


def _read(index: int) -> GpuReading:
    device = pynvml.nvmlDeviceGetHandleByIndex(index)
    return GpuReading(
        index=index,
        utilization=_told(lambda: pynvml.nvmlDeviceGetUtilizationRates(device).gpu / 100.0),
        memory_used_bytes=_told(lambda: pynvml.nvmlDeviceGetMemoryInfo(device).used),
        power_watts=_told(lambda: pynvml.nvmlDeviceGetPowerUsage(device) / 1000.0),
        temperature_celsius=_told(lambda: pynvml.nvmlDeviceGetTemperature(device, pynvml.NVML_TEMPERATURE_GPU)),
    )


def _told(read: Callable[[], float]) -> float | None:
    # A GPU split by MIG tells no utilisation, some boards no power.
    try:
        return float(read())
    except pynvml.NVMLError:
        return None
