"""What the GPUs do, read through NVML where a driver is there."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

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
        memory_free_bytes: Device memory that is free.
    """

    index: int
    utilization: float | None
    memory_used_bytes: float | None
    power_watts: float | None
    temperature_celsius: float | None
    memory_free_bytes: float | None = None


ReadGpus = Callable[[], list[GpuReading]]


def open_nvml(nvml: Any = pynvml) -> ReadGpus | None:
    """A function that reads every GPU; None where NVML finds no driver, which the log then says.

    Args:
        nvml: The binding.
    """
    try:
        nvml.nvmlInit()
    except nvml.NVMLError as error:
        logger.info("no GPU is measured", extra={"fields": {"nvml": str(error)}})
        return None
    return lambda: _read_all(nvml)


def _read_all(nvml: Any) -> list[GpuReading]:
    try:
        return [_read(nvml, index) for index in range(nvml.nvmlDeviceGetCount())]
    except nvml.NVMLError as error:
        # A GPU that fell off the bus must not take the other metrics with it.
        logger.warning("GPUs cannot be read", extra={"fields": {"error": str(error)}})
        return []


def _read(nvml: Any, index: int) -> GpuReading:
    device = nvml.nvmlDeviceGetHandleByIndex(index)

    def told(read: Callable[[], float]) -> float | None:
        # A GPU split by MIG tells no utilisation, some boards no power.
        try:
            return float(read())
        except nvml.NVMLError:
            return None

    return GpuReading(
        index=index,
        utilization=told(lambda: nvml.nvmlDeviceGetUtilizationRates(device).gpu / 100.0),
        memory_used_bytes=told(lambda: nvml.nvmlDeviceGetMemoryInfo(device).used),
        power_watts=told(lambda: nvml.nvmlDeviceGetPowerUsage(device) / 1000.0),
        temperature_celsius=told(lambda: nvml.nvmlDeviceGetTemperature(device, nvml.NVML_TEMPERATURE_GPU)),
        memory_free_bytes=told(lambda: nvml.nvmlDeviceGetMemoryInfo(device).free),
    )
