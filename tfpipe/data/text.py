"""Labelled and tagged texts as a source: what every form of text data becomes when it is opened."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, TypeAlias

import numpy as np

from tfpipe.core.entities import OUTSIDE, scheme_of, split_tag, types_of
from tfpipe.core.errors import DataError, DecodeError

# One label a text, any number of labels, or one tag a word.
Kind: TypeAlias = Literal["single", "multi", "tags"]

NO_LABEL = -1
# What to do with data that have no tags.
UNTAGGED = "Texts with a label each go with task=text_classification, images with task=image_classification."
_HASH_BYTES = 16
_SHOWN = 5


class TaggedText(NamedTuple):
    """A text with a tag for each of its words.

    Attributes:
        text: As it was given; CoNLL tokens are joined by one space.
        starts: Where each word begins, in code points.
        ends: One past where it ends.
        tags: One a word: `O`, or `B-`, `I-`, `E-`, `S-` and a type.
    """

    text: str
    starts: tuple[int, ...]
    ends: tuple[int, ...]
    tags: tuple[str, ...]


class TextRow(NamedTuple):
    """One sample as its file has it.

    Attributes:
        identifier: `train.tsv:12`, or the path of a file of its own.
        content: The text; tagged where tags are the labels.
        labels: Class names; empty for a tagged text.
    """

    identifier: str
    content: str | TaggedText
    labels: tuple[str, ...] = ()


class TextSource:
    """Texts in memory, as a `Source`: `read(i)` gives the text (or `TaggedText`) and `label(i)`.

    What `labels` and `label(i)` are depends on `kind`. "single": the class names, and the index of the text's class.
    "multi": the label names, and the index of its first label, or -1; `labels_of(i)` has all. "tags": the tags that a
    model answers with, and 1 where the text has an entity, else 0.

    Args:
        rows: The samples.
        labels: Names in order; every name in `rows` must be among them.
        kind: What the samples' labels are.
        max_chars: `read` refuses longer texts, in code points.
        where: The key or argument that the data came from, for messages.
        ignored: Files beside the samples that are none; `validate` reports them.

    Raises:
        DataError: A row has a label that is none of `labels`.
    """

    def __init__(
        self,
        rows: Sequence[TextRow],
        labels: Sequence[str],
        *,
        kind: Kind,
        max_chars: int,
        where: str,
        ignored: Sequence[str] = (),
    ) -> None:
        self.labels = tuple(labels)
        self.ignored = tuple(ignored)
        self.kind: Kind = kind
        self._rows = rows
        self._max_chars = max_chars
        self._where = where
        self._check_labels()
        index_of = {name: index for index, name in enumerate(self.labels)}
        self._labels_of = [tuple(sorted(index_of[name] for name in row.labels)) for row in rows]

    @property
    def multi_label(self) -> bool:
        """Whether a text may have several labels, or none."""
        return self.kind == "multi"

    def __len__(self) -> int:
        return len(self._rows)

    def identifier(self, index: int) -> str:
        return self._rows[index].identifier

    def label(self, index: int) -> int:
        content = self._rows[index].content
        if isinstance(content, TaggedText):
            return int(any(tag != OUTSIDE for tag in content.tags))
        return next(iter(self._labels_of[index]), NO_LABEL)

    def labels_of(self, index: int) -> tuple[int, ...]:
        """Indices of all labels of a text, increasing; empty for a tagged text."""
        return self._labels_of[index]

    def content(self, index: int) -> str | TaggedText:
        """What `read` gives, however long."""
        return self._rows[index].content

    def text(self, index: int) -> str:
        """The text alone, however long."""
        content = self._rows[index].content
        return content.text if isinstance(content, TaggedText) else content

    def stamp(self, index: int) -> str:
        row = self._rows[index]
        return _hash(repr((row.content, row.labels)))

    def group(self, index: int) -> str:
        """What all copies of a text share, so that a split keeps them on one side; see `text_key`."""
        return text_key(self.text(index))

    def read(self, index: int) -> tuple[str | TaggedText, int]:
        num_chars = len(self.text(index))
        if num_chars > self._max_chars:
            raise DecodeError(
                f"{self.identifier(index)}: expected at most {self._max_chars} characters (data.max_text_chars), "
                f"received {num_chars}."
            )
        return self._rows[index].content, self.label(index)

    def take(self, indices: Sequence[int] | np.ndarray) -> "TextSource":
        """Some samples, in the order of `indices`."""
        rows = [self._rows[int(index)] for index in indices]
        return TextSource(rows, self.labels, kind=self.kind, max_chars=self._max_chars, where=self._where)

    def with_labels(self, labels: Sequence[str]) -> "TextSource":
        """The same samples, their labels counted among others.

        Raises:
            DataError: A row has a label that is none of `labels`.
        """
        return TextSource(self._rows, labels, kind=self.kind, max_chars=self._max_chars, where=self._where)

    def _check_labels(self) -> None:
        known = set(self.labels)
        unknown: dict[str, str] = {}
        for row in self._rows:
            names = row.content.tags if isinstance(row.content, TaggedText) else row.labels
            for name in names:
                if name not in known:
                    unknown.setdefault(name, row.identifier)
        if unknown:
            shown = ", ".join(f"{name!r} ({place})" for name, place in list(unknown.items())[:_SHOWN])
            more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
            what = "tags" if self.kind == "tags" else "labels"
            raise DataError(
                f"{self._where}: expected only {what} of the training data ({listed(self.labels)}), received "
                f"{shown}{more}."
            )


def tag_names(tags: Iterable[str]) -> tuple[str, ...]:
    """The tags that a model answers with: `O`, then every tag of the data's scheme for each type, sorted.

    All of a scheme rather than those that occur: a type whose entities have one word each in the training data may
    have two elsewhere.

    Example:
        >>> tag_names(["B-PER", "O", "I-LOC"])
        ('O', 'B-LOC', 'I-LOC', 'B-PER', 'I-PER')

    Args:
        tags: Those of the training data.

    Raises:
        DataError: One is no tag.
    """
    distinct = set(tags)
    prefixes = "BIES" if scheme_of(distinct) == "BIOES" else "BI"
    return (OUTSIDE, *(f"{prefix}-{kind}" for kind in types_of(distinct) for prefix in prefixes))


def check_tag(tag: object) -> str:
    """A tag as data may have it.

    Raises:
        ValueError: It is no string, has no type, or begins otherwise; the message is a clause.
    """
    try:
        if isinstance(tag, str) and (
            tag == OUTSIDE or (split_tag(tag)[0] != OUTSIDE and len(tag) > 2 and tag[1] == "-")
        ):
            return tag
    except DataError:
        pass
    raise ValueError(f"expected a tag: O, or B-, I-, E- or S- and a type; received {tag!r}.")


def text_key(text: str) -> str:
    """A hash that texts share which differ in case and white space only."""
    return _hash(" ".join(text.casefold().split()))


def join_words(words: Sequence[str], tags: Sequence[str]) -> TaggedText:
    """Words joined by one space, with their tags.

    Args:
        words: (n,) none of them empty.
        tags: (n,) one each.
    """
    starts: list[int] = []
    position = 0
    for word in words:
        starts.append(position)
        position += len(word) + 1
    ends = [start + len(word) for start, word in zip(starts, words, strict=True)]
    return TaggedText(" ".join(words), tuple(starts), tuple(ends), tuple(tags))


def listed(names: Sequence[str], most: int = _SHOWN) -> str:
    """The first few names, quoted."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(repr(name) for name in names[:most]) + more


def _hash(content: str) -> str:
    return hashlib.blake2b(content.encode("utf-8", "surrogatepass"), digest_size=_HASH_BYTES).hexdigest()
