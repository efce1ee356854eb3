"""A training loop on random pixels, for benchmarks of speed."""

from pathlib import Path
from typing import Any

import numpy as np

from tfpipe.config import load_config
from tfpipe.data.pipeline import Batch, RowReader
from tfpipe.distributed import World
from tfpipe.models.assembly import assemble, build_network, build_preprocessing
from tfpipe.models.zoo import IMAGENET, find_model
from tfpipe.preprocessing.layers import DRAWS
from tfpipe.settings import Config
from tfpipe.training.loop import TrainingLoop
from tfpipe.training.signals import StopRequest

NUM_CLASSES = 10


class RandomPixels:
    """Samples of random pixels in memory."""

    labels = tuple(f"class {i}" for i in range(NUM_CLASSES))

    def __init__(self, num_samples: int, size: int) -> None:
        self.pixels = np.random.default_rng(0).integers(0, 256, (num_samples, size, size, 3), dtype=np.uint8)

    def __len__(self) -> int:
        return len(self.pixels)

    def identifier(self, index: int) -> str:
        return str(index)

    def label(self, index: int) -> int:
        return index % NUM_CLASSES

    def stamp(self, index: int) -> str:
        return str(index)

    def read(self, index: int) -> tuple[np.ndarray, int]:
        return self.pixels[index], self.label(index)


def whole_batch(source: RandomPixels) -> Batch:
    """All samples as one batch that a training step takes."""
    size = len(source)
    return Batch(
        source.pixels.astype(np.float32),
        np.arange(size, dtype=np.int32) % NUM_CLASSES,
        np.ones(size, np.float32),
        np.zeros((size, len(DRAWS)), np.float32),
        np.float32(0),
    )


def run_config(model: str, *, size: int, batch_size: int, optimizer: str, accumulation_steps: int = 1) -> Config:
    """A configuration without augmentation."""
    config = Path(__file__).parent.parent / "configs" / "image_classification_digits.yaml"
    off = [f"preprocessing.augmentation.{name}=0" for name in ("rotation", "zoom", "translation")]
    return load_config(
        config,
        [*off, f"model.name={model}", "model.dropout=0", f"preprocessing.image_size=[{size},{size}]",
         "preprocessing.normalization=auto", f"training.batch_size={batch_size}", f"training.optimizer={optimizer}",
         f"training.accumulation_steps={accumulation_steps}", "training.weight_decay=0"],
    )  # fmt: skip


def build_loop(config: Config, source: Any, world: World) -> tuple[TrainingLoop, RowReader]:
    """A loop ready to take steps."""
    normalization = find_model(config.model.name).normalization or IMAGENET
    parts = assemble(
        build_preprocessing(config.preprocessing, normalization), build_network(config, NUM_CLASSES), source.labels
    )
    reader = RowReader(source, parts.preprocessing.resize, max_pixels=10**8, cache="memory")
    return TrainingLoop(parts, config, world, reader, None, StopRequest()), reader
