"""Texts: to token ids before the model; to classes, or to entities in the caller's own string, after it."""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from tfpipe.core.entities import OUTSIDE, split_tag
from tfpipe.core.errors import ConfigError, DataError, DecodeError, InputTooLargeError
from tfpipe.core.postprocess import classification_answer, entities_answer, multi_label_answer
from tfpipe.core.signature import Array
from tfpipe.core.words import first_tokens, split_words
from tfpipe.inference.interface import Prepared
from tfpipe.text.encoding import Encoding, Tokenizer
from tfpipe.text.packing import SPECIAL_TOKENS, bucket_length, buckets_up_to, pad_rows, row_of, windows

TEXT_TASKS = ("text_classification", "token_classification")
# Some 40 pages. Training leaves longer ones out too, unless it is told otherwise.
MAX_TEXT_CHARS = 100_000

_Window = tuple[int, int]


class TextInference:
    """An `Inference` of text classification, or of entities by the tags of words.

    A text that is longer than a row is cut for classification, as training cuts it. For tags it becomes several rows,
    half overlapping, and each word is answered where it stands farthest from an edge.

    Args:
        tokenizer: The one that trained.
        task: "text_classification" or "token_classification".
        labels: Class names, or tags, in the order of the model's output.
        multi_label: Whether each class is answered for itself.
        max_length: Tokens of a row at most, special ones included; at least 3.
        max_chars: Longer texts, in code points, are refused.

    Raises:
        ConfigError: Another task, a row too short for any token, or labels that are no tags.
    """

    takes: Literal["text"] = "text"

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        task: str,
        labels: Sequence[str],
        multi_label: bool = False,
        max_length: int,
        max_chars: int = MAX_TEXT_CHARS,
    ) -> None:
        if task not in TEXT_TASKS:
            raise ConfigError(f"task: expected one of {', '.join(TEXT_TASKS)}, received {task!r}.")
        if max_length <= SPECIAL_TOKENS:
            raise ConfigError(f"max_length: expected more than {SPECIAL_TOKENS}, received {max_length}.")
        self.labels = tuple(labels)
        self.lengths = buckets_up_to(max_length)
        self._tokenizer, self._max_length, self._max_chars = tokenizer, max_length, max_chars
        self._has_tags = task == "token_classification"
        self._classify = multi_label_answer if multi_label else classification_answer
        if self._has_tags:
            _check_tags(self.labels)

    def decode(self, content: bytes | str) -> str:
        """See `Inference.decode`. Bytes are UTF-8, every character of which counts: a byte order mark too."""
        try:
            text = content if isinstance(content, str) else content.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DecodeError(
                f"text: expected UTF-8 text, which this model takes; byte {error.start} is not."
            ) from error
        if len(text) > self._max_chars:
            raise InputTooLargeError(
                f"text: expected at most {self._max_chars} characters, received {len(text)}.",
                expected_chars=self._max_chars,
                received_chars=len(text),
            )
        return text

    def prepare(self, sample: str) -> Prepared:
        """See `Inference.prepare`; rows are (tokens,) int32."""
        encoding = self._tokenizer.encode(sample)
        if not self._has_tags:
            return Prepared((row_of(self._tokenizer, encoding.ids, self._max_length),), self._classes)
        room = self._max_length - SPECIAL_TOKENS
        pieces = windows(len(encoding.ids), room, stride=max(room // 2, 1))
        rows = tuple(row_of(self._tokenizer, encoding.ids[start:end], self._max_length) for start, end in pieces)
        return Prepared(rows, partial(self._entities, sample, encoding, pieces))

    def padded_length(self, row: Array) -> int:
        """See `Inference.padded_length`."""
        return bucket_length(len(row), self.lengths)

    def batch(self, rows: Sequence[Array]) -> Array:
        """See `Inference.batch`; (batch, length) int32, the length being the bucket of the longest row."""
        longest = max(map(len, rows))
        return pad_rows(rows, bucket_length(longest, self.lengths), self._tokenizer.pad_id)[0]

    def cut(self, probabilities: Array, rows: Sequence[Array]) -> list[Array]:
        """See `Inference.cut`; (classes,) each, or (tokens, tags)."""
        if not self._has_tags:
            return list(probabilities)
        return [answered[: len(row)] for answered, row in zip(probabilities, rows, strict=True)]

    def _classes(self, probabilities: Sequence[Array]) -> dict[str, Any]:
        return self._classify(probabilities[0], self.labels)

    def _entities(
        self, text: str, encoding: Encoding, pieces: Sequence[_Window], probabilities: Sequence[Array]
    ) -> dict[str, Any]:
        answered = _of_tokens(pieces, probabilities)
        best = answered.argmax(axis=1).tolist()
        scores = answered.max(axis=1).tolist()
        starts, ends = split_words(text)
        firsts = first_tokens(starts, ends, encoding.starts, encoding.ends)
        return entities_answer(
            text,
            starts,
            ends,
            [OUTSIDE if token is None else self.labels[best[token]] for token in firsts],
            [0.0 if token is None else scores[token] for token in firsts],
        )


def _of_tokens(pieces: Sequence[_Window], probabilities: Sequence[Array]) -> Array:
    """(tokens, tags) of a text, special tokens left out, each from the window whose edges are farthest from it.

    A window answers up to the middle of what it shares with the next one. The text's own ends are no edges.
    """
    middles = [(end + next_start + 1) // 2 for (_, end), (next_start, _) in pairwise(pieces)]
    bounds = [0, *middles, pieces[-1][1]]
    return np.concatenate(
        [
            # One further: a row opens with the start token.
            answered[1 + first - start : 1 + last - start]
            for (start, _), first, last, answered in zip(pieces, bounds[:-1], bounds[1:], probabilities, strict=True)
        ]
    )


def _check_tags(labels: Sequence[str]) -> None:
    try:
        for label in labels:
            split_tag(label)
    except DataError as error:
        raise ConfigError(f"labels: {error}") from error
