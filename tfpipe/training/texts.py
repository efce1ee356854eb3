"""Texts, when a run is prepared: tokenised."""

from tfpipe.data.pipeline import Reader
from tfpipe.data.sources import Source
from tfpipe.data.text import TextSource
from tfpipe.data.token_rows import TokenReader
from tfpipe.distributed import World
from tfpipe.models.assembly import Parts, assemble_text
from tfpipe.models.text_zoo import Tokens, build_text_network
from tfpipe.settings import Config
from tfpipe.tasks.find import find_task
from tfpipe.text.tokenizer import SavedTokenizer


class Texts:
    """A `Modality` of texts."""

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
