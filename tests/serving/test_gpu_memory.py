import pytest

from serving.engine import Engine
from serving.gpu import GpuReading
from serving.gpu_memory import GpuMemory, batch_bytes
from serving.metrics import Metrics
from serving.request import Request
from serving.service import Service
from serving.settings import ServingSettings
from serving.source import fetch_bundles
from serving.wanted import Wanted
from tests.serving.clocks import FakeClock
from tfpipe.core.signature import TensorSpec


class Gpu:
    def __init__(self, free_bytes: float | None) -> None:
        self.free_bytes, self.readings = free_bytes, 0

    def __call__(self) -> list[GpuReading]:
        self.readings += 1
        return [GpuReading(0, None, None, None, None, self.free_bytes)]


def test_what_there_is_no_room_for_is_refused():
    memory = GpuMemory(Gpu(100))

    memory.check(100)
    with pytest.raises(MemoryError, match="expected 101 free bytes for the next batch, there are 100"):
        memory.check(101)


@pytest.mark.parametrize("gpus", [None, list, Gpu(None)])
def test_what_is_not_told_refuses_nothing(gpus):
    GpuMemory(gpus).check(2**60)


def test_the_gpu_is_not_asked_for_every_request():
    gpu, clock = Gpu(100), FakeClock()
    memory = GpuMemory(gpu, clock=clock)
    for _ in range(10):
        memory.check(1)
    gpu.free_bytes = 0
    clock.now_s += 0.25

    with pytest.raises(MemoryError):
        memory.check(1)
    assert gpu.readings == 2


def test_a_batch_is_its_inputs_and_outputs():
    image = TensorSpec("input", "float32", ("batch", 28, 28, 3))
    tokens = TensorSpec("token_ids", "int64", ("batch", "length"))

    assert batch_bytes([image], rows=8, length=1) == 8 * 28 * 28 * 3 * 4
    assert batch_bytes([tokens], rows=2, length=512) == 2 * 512 * 8


@pytest.mark.parametrize(("provider", "is_refused"), [("cuda", True), ("cpu", False)])
async def test_only_a_model_on_a_gpu_needs_its_memory(bundle, provider, is_refused):
    def engines():
        served = next(iter(fetch_bundles(str(bundle), registered_model=None, cache_dir=bundle.parent)))
        engine = Engine.open(
            served, precision="fp32", provider="cpu", threads=1, max_batch_size=4,
            max_image_pixels=10_000, max_text_chars=100,
        )  # fmt: skip
        engine.provider = provider
        yield engine

    service = Service(ServingSettings(model=str(bundle)), Metrics(), engines, gpu_memory=GpuMemory(Gpu(10)))
    await service.load()
    request = Request("1", "POST", "/predict", {}, b"")
    try:
        if is_refused:
            with pytest.raises(MemoryError):
                service.find(Wanted(), request)
        else:
            assert service.find(Wanted(), request) is request.deployment
            assert request.is_routed
    finally:
        service.close()
