"""The tokenizer of a run: found, or trained on its texts, by the chief; the same on every worker."""

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tfpipe.core.errors import ConfigError, DecodeError
from tfpipe.data.text import TextSource
from tfpipe.distributed import World
from tfpipe.settings import Config
from tfpipe.text import tokenizer as tokenizers
from tfpipe.text.encoding import check_text
from tfpipe.text.keras_side import save_proved, tokenizer_from_preset
from tfpipe.text.tokenizer import SavedTokenizer, open_saved, write_files
from tfpipe.text.tokenizer_files import MANIFEST
from tfpipe.text.train_tokenizer import train_tokenizer

logger = logging.getLogger(__name__)


def run_tokenizer(config: Config, train: TextSource, world: World, folder: Path | None) -> SavedTokenizer:
    """The tokenizer of a run.

    That of the folder, where an earlier sitting left it; else `preprocessing.tokenizer`, else that of `model.preset`,
    else one trained on the training texts.

    Args:
        config: The run.
        train: Its training texts.
        world: The workers; other hosts may not see the chief's files.
        folder: The run's; None where it has none.

    Raises:
        ConfigError: Neither a folder nor a preset, or a tokenizer that cannot be trained so.
        BundleError: A tokenizer's folder that is damaged.
        ConversionError: The service's tokenizer gives other ids than the Keras layer.
    """
    files = world.on_chief(lambda: dict(_chosen(config, train, folder).files))
    return world.together(lambda: _written(files))


def _chosen(config: Config, train: TextSource, folder: Path | None) -> SavedTokenizer:
    if folder is not None and (folder / tokenizers.FOLDER / MANIFEST).is_file():
        return open_saved(folder / tokenizers.FOLDER)
    given = config.preprocessing.tokenizer
    if given is not None and (Path(given) / MANIFEST).is_file():
        return open_saved(Path(given))
    preset = given or config.model.preset
    with tempfile.TemporaryDirectory(prefix="tfpipe-tokenizer-") as scratch:
        if preset is not None:
            save_proved(tokenizer_from_preset(preset), Path(scratch))
        else:
            _train(config, train, Path(scratch))
        return open_saved(Path(scratch))


def _train(config: Config, train: TextSource, folder: Path) -> None:
    settings = config.preprocessing
    logger.info("training a %s tokenizer on %d texts", settings.tokenizer_kind, len(train))
    try:
        tokenizer = train_tokenizer(
            _readable(train),
            kind=settings.tokenizer_kind,
            vocabulary_size=settings.vocabulary_size,
            lowercase=settings.lowercase,
        )
    except ConfigError as error:
        raise ConfigError(f"preprocessing.tokenizer_kind, vocabulary_size or lowercase: {error}") from error
    save_proved(tokenizer, folder)


def _readable(source: TextSource) -> Iterator[str]:
    """Texts that a row can be made of; the others are counted as corrupt by their reader."""
    for index in range(len(source)):
        try:
            source.read(index)
            check_text(source.text(index))
        except DecodeError:
            continue
        yield source.text(index)


def _written(files: dict[str, bytes]) -> SavedTokenizer:
    with tempfile.TemporaryDirectory(prefix="tfpipe-tokenizer-") as scratch:
        folder = Path(scratch) / tokenizers.FOLDER
        write_files(files, folder)
        return open_saved(folder)
