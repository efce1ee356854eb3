"""Images, when a run is prepared: decoded, resized, normalised."""

import numpy as np

from tfpipe.core.errors import DataError
from tfpipe.data.pipeline import Reader, RowReader
from tfpipe.data.sources import Source
from tfpipe.distributed import World
from tfpipe.models.assembly import (
    Parts,
    assemble,
    build_network,
    build_preprocessing,
    build_resize,
    known_normalization,
)
from tfpipe.models.zoo import Normalization
from tfpipe.settings import Config
from tfpipe.tasks.find import find_task

# Enough to know a mean and a standard deviation to half a percent; a larger data set would cost an epoch of reading.
_ADAPT_SAMPLES = 10_000
_ADAPT_CHUNK = 256
# A channel that is all but constant would be divided by nearly zero.
_LEAST_STD = 1 / 255


class Images:
    """A `Modality` of images."""

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
