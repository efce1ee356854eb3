"""A tag for each word, which together spell entities.

Shape legend: B batch, T tokens of a row, W words of the longest text, C tags.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from tfpipe.core.classification import macro_score, micro_score
from tfpipe.core.entities import entity_counts, entity_spans, types_of
from tfpipe.data.sources import Source
from tfpipe.data.text import TaggedText, TextSource
from tfpipe.tasks.single_label import SingleLabel
from tfpipe.tasks.task import Compared, ratio

# The last axis of labels, and what stands there for a word that is not, or has no token in the row.
TAG, POSITION = 0, 1
MISSING = -1


@dataclass(frozen=True)
class Tagging(SingleLabel):
    """Labels are (B, W, 2) int32: each word's tag, and the position of its first token in the row; logits (B, T, C).

    A word that the row has no token for (a text that was cut, or a word of characters that the tokenizer drops) takes
    no part in the loss, and is answered with `O` when entities are counted: what is cut off was not found.

    Precision, recall and F1 are those of entities, found where type, begin and end agree, micro-averaged.
    Source: CoNLL-2003, Tjong Kim Sang & De Meulder; as seqeval computes them.
    """

    label_shape: ClassVar[tuple[int | None, ...]] = (None, 2)
    score_names: ClassVar[tuple[str, ...]] = ("precision", "recall", "f1", "macro_f1")
    headline: ClassVar[str] = "f1"

    def output_shape(self) -> tuple[int | None, ...]:
        return None, None, len(self.labels)

    def compared(self, labels: Any, logits: Any, weights_B: Any) -> Compared:
        tags, positions = labels[..., TAG], labels[..., POSITION]
        answered = tf.cast((tags != MISSING) & (positions != MISSING), tf.float32)
        # Where nothing is, anything: its weight is 0.
        words = tf.gather(tf.cast(logits, tf.float32), tf.maximum(positions, 0), batch_dims=1)
        return Compared(tf.maximum(tags, 0), words, answered * weights_B[:, None])

    def predictions(self, labels: Any, probabilities: Any) -> Any:
        positions = labels[..., POSITION]
        words = tf.gather(
            tf.argmax(probabilities, axis=-1, output_type=tf.int32), tf.maximum(positions, 0), batch_dims=1
        )
        return tf.where(positions != MISSING, words, self._outside)

    def tally_shape(self) -> tuple[int, ...]:
        return len(self._types) + 1, 3

    def tally(self, labels: np.ndarray, predictions: np.ndarray, weights_B: np.ndarray) -> np.ndarray:
        """(types + 1, 3): true positives, predicted and true entities of each type; last right words, words, words."""
        total = np.zeros(self.tally_shape(), np.float64)
        for tags, answers, weight in zip(labels[..., TAG], predictions, weights_B, strict=True):
            there = tags != MISSING
            true, predicted = ([self.labels[tag] for tag in row[there]] for row in (tags, answers))
            total[:-1] += weight * entity_counts(entity_spans(true), entity_spans(predicted), self._types)
            total[-1] += weight * np.array([(tags[there] == answers[there]).sum(), there.sum(), there.sum()])
        return total

    def scores(self, tally: np.ndarray) -> dict[str, float]:
        precision, recall, f1, _ = micro_score(tally[:-1])
        accuracy = ratio(*tally[-1, :2].tolist())
        return {
            "accuracy": accuracy,
            "precision": precision,
            "recall": recall,
            "f1": f1,
            "macro_f1": macro_score(tally[:-1]).f1,
        }

    def class_counts(self, tally: np.ndarray) -> tuple[tuple[str, ...], np.ndarray]:
        return self._types, tally[:-1]

    def confusion(self, tally: np.ndarray) -> np.ndarray | None:
        return None

    def examples(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """Of two words each, and as many tokens."""
        rng = np.random.default_rng(0)
        labels = np.stack([rng.integers(0, len(self.labels), (size, 2)), np.tile([0, 1], (size, 1))], axis=-1)
        return labels.astype(np.int32), rng.normal(size=(size, 2, len(self.labels))).astype(np.float32)

    def occurrences(self, source: Source) -> np.ndarray:
        if not isinstance(source, TextSource):
            raise TypeError(f"source: expected texts, received {type(source).__name__}.")
        number = {tag: index for index, tag in enumerate(self.labels)}
        texts = (source.content(index) for index in range(len(source)))
        found = [number[tag] for text in texts if isinstance(text, TaggedText) for tag in text.tags]
        return np.bincount(found, minlength=len(self.labels))

    @property
    def _types(self) -> tuple[str, ...]:
        return types_of(self.labels)

    @property
    def _outside(self) -> int:
        return self.labels.index("O")
