from types import SimpleNamespace

import pytest

from serving.gpu import GpuReading, open_nvml


class NvmlError(Exception):
    pass


class FakeNvml:
    """The binding, on a machine with two GPUs of which the second tells its memory only."""

    NVMLError = NvmlError
    NVML_TEMPERATURE_GPU = 0

    def __init__(self, *, driver: bool = True) -> None:
        self.driver = driver

    def nvmlInit(self) -> None:
        if not self.driver:
            raise NvmlError("driver not loaded")

    def nvmlDeviceGetCount(self) -> int:
        self.nvmlInit()
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetUtilizationRates(self, device: int) -> SimpleNamespace:
        return SimpleNamespace(gpu=self._told(device, 25))

    def nvmlDeviceGetMemoryInfo(self, device: int) -> SimpleNamespace:
        return SimpleNamespace(used=4096, free=1024)

    def nvmlDeviceGetPowerUsage(self, device: int) -> int:
        return self._told(device, 300_500)

    def nvmlDeviceGetTemperature(self, device: int, sensor: int) -> int:
        return self._told(device, 61)

    def _told(self, device: int, value: int) -> int:
        if device == 1:
            raise NvmlError("not supported")
        return value


def test_every_gpu_is_read_and_what_it_does_not_tell_is_left_out():
    assert open_nvml(FakeNvml())() == [
        GpuReading(0, 0.25, 4096.0, 300.5, 61.0, 1024.0),
        GpuReading(1, None, 4096.0, None, None, 1024.0),
    ]


def test_without_a_driver_there_is_nothing_to_read_and_the_log_says_so_once(caplog):
    caplog.set_level("INFO")

    assert open_nvml(FakeNvml(driver=False)) is None
    assert [record.getMessage() for record in caplog.records] == ["no GPU is measured"]


def test_a_driver_that_goes_away_is_logged_and_leaves_the_other_metrics(caplog):
    nvml = FakeNvml()
    read = open_nvml(nvml)
    nvml.driver = False

    assert read() == []
    assert caplog.records[-1].getMessage() == "GPUs cannot be read"


def test_this_machines_gpus_are_read():
    read = open_nvml()
    if read is None:
        pytest.skip("NVML finds no driver here")

    assert all(reading.memory_used_bytes for reading in read())
