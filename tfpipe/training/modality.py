"""What differs between images and texts when a run is prepared: how samples become rows, and the model around them."""

from pathlib import Path
from typing import Protocol

import numpy as np

from tfpipe.core.errors import DataError
from tfpipe.data.pipeline import Reader, RowReader
from tfpipe.data.sources import Source
from tfpipe.data.text import TextSource
from tfpipe.data.token_rows import TokenReader
from tfpipe.distributed import World
from tfpipe.models.assembly import (
    Parts,
    assemble,
    assemble_text,
    build_network,
    build_preprocessing,
    build_resize,
    known_normalization,
)
from tfpipe.models.text_zoo import Tokens, build_text_network
from tfpipe.models.zoo import Normalization
from tfpipe.settings import Config
from tfpipe.tasks.find import find_task
from tfpipe.tasks.task import Task
from tfpipe.text.tokenizer import SavedTokenizer
from tfpipe.training.tokenization import run_tokenizer

# Enough to know a mean and a standard deviation to half a percent; a larger data set would cost an epoch of reading.
_ADAPT_SAMPLES = 10_000
_ADAPT_CHUNK = 256
# A channel that is all but constant would be divided by nearly zero.
_LEAST_STD = 1 / 255


class Modality(Protocol):
    """Images or texts.

    Attributes:
        task: What labels are.
    """

    task: Task

    def reader(self, source: Source) -> Reader:
        """Samples as rows."""
        ...

    def build(self, config: Config, train: Reader, world: World) -> Parts:
        """The model of the run; the same on every worker.

        Raises:
            ConfigError: Unknown model, weights that cannot be had, or a function that gives something else.
            DataError: The training samples cannot be read.
        """
        ...

    def build_alike(self, config: Config) -> Parts:
        """A model that computes as much as that of the run, made without reading samples."""
        ...


def open_modality(config: Config, train: Source, world: World, folder: Path | None) -> Modality:
    """The modality of a run.

    Args:
        config: The run.
        train: Training samples.
        world: The workers.
        folder: The run's; None where it has none. A tokenizer that an earlier sitting left there is used.

    Raises:
        ConfigError: The tokenizer cannot be had.
    """
    if isinstance(train, TextSource):
        return Texts(config, train, world, run_tokenizer(config, train, world, folder))
    return Images(config, train, world)


class Images:
    """Decoded, resized, normalised."""

    def __init__(self, config: Config, train: Source, world: World) -> None:
        self._config, self._world = config, world
        self._labels = train.labels
        self.task = find_task(config.task, train.labels)

    def reader(self, source: Source) -> Reader:
        data = self._config.data
        return RowReader(
            source, build_resize(self._config.preprocessing), max_pixels=data.max_image_pixels, cache=data.cache,
            processes=self._world.local_size,
        )  # fmt: skip

    def build(self, config: Config, train: Reader, world: World) -> Parts:
        known = known_normalization(config)
        # A name or a file of weights that is wrong is told before samples are read.
        network = build_network(config, len(self._labels))
        normalization = known or adapted_normalization(train, world)
        return assemble(build_preprocessing(config.preprocessing, normalization), network, self._labels)

    def build_alike(self, config: Config) -> Parts:
        # Which mean and deviation rows are scaled by changes no time.
        preprocessing = build_preprocessing(config.preprocessing, Normalization((0.5,) * 3, (0.25,) * 3))
        return assemble(preprocessing, build_network(config, len(self._labels)), self._labels)


class Texts:
    """Tokenised."""

    def __init__(self, config: Config, train: TextSource, world: World, saved: SavedTokenizer) -> None:
        self._config, self._world, self._saved = config, world, saved
        self.task = find_task(config.task, train.labels, multi_label=train.multi_label)

    def reader(self, source: Source) -> Reader:
        if not isinstance(source, TextSource):
            raise TypeError(f"source: expected texts, received {type(source).__name__}.")
        return TokenReader(
            source, self._saved.tokenizer, self.task, max_length=self._config.preprocessing.max_length,
            world=self._world,
        )  # fmt: skip

    def build(self, config: Config, train: Reader, world: World) -> Parts:
        return self.build_alike(config)

    def build_alike(self, config: Config) -> Parts:
        tokenizer, max_length = self._saved.tokenizer, config.preprocessing.max_length
        tokens = Tokens(tokenizer.vocabulary_size, tokenizer.pad_id, max_length)
        per_token = len(self.task.output_shape()) == 3
        network = build_text_network(config, tokens, len(self.task.labels), per_token=per_token)
        return assemble_text(self._saved, network, self.task, max_length=max_length)


def adapted_normalization(reader: Reader, world: World) -> Normalization:
    """Mean and standard deviation per channel of up to 10,000 training samples; each worker reads its share.

    Raises:
        DataError: None of them can be read.
    """
    picked = np.unique(np.linspace(0, len(reader.source) - 1, _ADAPT_SAMPLES).astype(np.int64))
    mine = picked[world.rank :: world.size]
    sums = np.zeros((3, 3))
    for start in range(0, len(mine), _ADAPT_CHUNK):
        rows, readable = reader.read(mine[start : start + _ADAPT_CHUNK])
        values = rows[readable].astype(np.float64) / 255.0
        sums += [np.full(3, values[..., 0].size), values.sum((0, 1, 2)), np.square(values).sum((0, 1, 2))]
    count, total, squares = np.sum(world.gather_objects(sums), axis=0)
    if not count[0]:
        raise DataError(
            "data.path: expected readable training samples, received none. `python -m tfpipe.data validate` says why."
        )
    mean = total / count
    std = np.maximum(np.sqrt(np.maximum(squares / count - mean**2, 0.0)), _LEAST_STD)
    # Six digits: how the sums were split over workers must not show.
    return Normalization(tuple(np.round(mean, 6).tolist()), tuple(np.round(std, 6).tolist()))
