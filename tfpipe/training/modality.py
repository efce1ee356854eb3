"""What differs between images and texts when a run is prepared: how samples become rows, and the model around them."""

from pathlib import Path
from typing import Protocol

from tfpipe.data.pipeline import Reader
from tfpipe.data.sources import Source
from tfpipe.data.text import TextSource
from tfpipe.distributed import World
from tfpipe.models.assembly import Parts
from tfpipe.settings import Config
from tfpipe.tasks.task import Task
from tfpipe.training.images import Images


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
        # Only here: keras-nlp takes seconds to import, and memory, which images need not have.
        from tfpipe.training.texts import Texts
        from tfpipe.training.tokenization import run_tokenizer

        return Texts(config, train, world, run_tokenizer(config, train, world, folder))
    return Images(config, train, world)
