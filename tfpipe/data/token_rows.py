"""Texts -> rows of token ids, padded to the longest of a batch."""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from tqdm import tqdm

from tfpipe.core.errors import ConversionError, DecodeError
from tfpipe.core.words import first_tokens
from tfpipe.data.pipeline import note_corrupt
from tfpipe.data.text import TaggedText, TextSource
from tfpipe.distributed import World
from tfpipe.tasks.tagging import MISSING
from tfpipe.tasks.task import Task
from tfpipe.text.encoding import Encoding, Tokenizer
from tfpipe.text.keras_side import keras_ids
from tfpipe.text.packing import bucket_length, buckets_up_to, pad_rows, row_of

_PROVED_AT_ONCE = 1024


class TokenReader:
    """Reads texts as rows of token ids; a `tfpipe.data.pipeline.Reader`.

    All texts are tokenised once, at the start, by the tokenizer that the service has; keras-nlp's layer must give the
    same ids for each, else there is no run. Each worker proves its share.

    Args:
        source: The texts.
        tokenizer: Of the run.
        task: What labels are.
        max_length: Tokens of a row at most, special ones included.
        world: The workers.

    Raises:
        ConversionError: The Keras layer gives other ids than the service's tokenizer.
    """

    def __init__(self, source: TextSource, tokenizer: Tokenizer, task: Task, *, max_length: int, world: World) -> None:
        self.source, self.tokenizer, self.max_length = source, tokenizer, max_length
        self.corrupt: dict[int, str] = {}
        self.row_spec = tf.TensorSpec((None, None), tf.int32)
        self.label_spec = tf.TensorSpec((None, *task.label_shape), tf.int32)
        self.num_draws = 0
        self._buckets = buckets_up_to(max_length)
        self._readable = np.ones(len(source), bool)
        rows: list[np.ndarray] = []
        words: list[np.ndarray] = []
        hidden = None if world.is_chief else True
        for index in tqdm(range(len(source)), desc="tokenizing", unit=" texts", leave=False, disable=hidden, delay=2):
            encoding = self._encode(index)
            rows.append(row_of(tokenizer, encoding.ids, max_length))
            if source.kind == "tags":
                words.append(self._words(index, encoding))
        self._rows, self._words_of = rows, words
        self.lengths: np.ndarray = np.array([len(row) for row in rows], np.int64)
        self._labels = _labels(source, len(task.labels))
        self._prove(range(world.rank, len(source), world.size))

    def read(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """See `Reader`: (n, tokens) int32, as long as the bucket of the longest."""
        rows = [self._rows[index] for index in indices.tolist()]
        length = bucket_length(max(map(len, rows)), self._buckets)
        return pad_rows(rows, length, self.tokenizer.pad_id)[0], self._readable[indices]

    def labels(self, indices: np.ndarray) -> np.ndarray:
        """See `Reader`: of texts with tags (n, words, 2), as many as the longest has."""
        if self.source.kind != "tags":
            picked: np.ndarray = self._labels[indices]
            return picked
        words = [self._words_of[index] for index in indices.tolist()]
        labels = np.full((len(words), max(1, *map(len, words)), 2), MISSING, np.int32)
        for row, of_text in zip(labels, words, strict=True):
            row[: len(of_text)] = of_text
        return labels

    def _encode(self, index: int) -> Encoding:
        try:
            self.source.read(index)
            return self.tokenizer.encode(self.source.text(index))
        except DecodeError as error:
            self._readable[index] = False
            note_corrupt(self, index, error)
            return Encoding([], [], [])

    def _words(self, index: int, encoding: Encoding) -> np.ndarray:
        """(words, 2) int32: the tag, and the position in the row of the first token."""
        content = self.source.content(index)
        if not isinstance(content, TaggedText):
            raise TypeError(f"{self.source.identifier(index)}: expected a tagged text, received {content!r}.")
        number = {tag: position for position, tag in enumerate(self.source.labels)}
        tokens = first_tokens(content.starts, content.ends, encoding.starts, encoding.ends)
        # Behind the opening token, and before the closing one.
        last = self.max_length - 2
        positions = [MISSING if token is None or token >= last else token + 1 for token in tokens]
        return np.array([[number[tag] for tag in content.tags], positions], np.int32).T.reshape(-1, 2)

    def _prove(self, indices: Sequence[int]) -> None:
        """Compare the rows with the ids of keras-nlp's layer; byte-level BPE has none, see `keras_side`."""
        tokenizer = self.tokenizer
        for start in range(0, len(indices), _PROVED_AT_ONCE):
            picked = [index for index in indices[start : start + _PROVED_AT_ONCE] if self._readable[index]]
            for index, ids in zip(picked, keras_ids(tokenizer, [self.source.text(i) for i in picked]), strict=True):
                wanted, received = row_of(tokenizer, ids, self.max_length).tolist(), self._rows[index].tolist()
                if wanted != received:
                    raise ConversionError(
                        f"{self.source.identifier(index)}: expected the Keras layer's ids {wanted[:16]}, received "
                        f"{received[:16]} from the service's tokenizer."
                    )


def _labels(source: TextSource, num_labels: int) -> np.ndarray:
    if source.kind == "multi":
        labels = np.zeros((len(source), num_labels), np.int32)
        for index in range(len(source)):
            labels[index, list(source.labels_of(index))] = 1
        return labels
    return np.array([source.label(index) for index in range(len(source))], np.int32)
