"""Entities in tagged text: tags to spans, spans to what the caller reads, and the counts that score them.

Tags are `O`, or `B-`, `I-`, `E-`, `S-` and a type: first, inside, last, and only word of an entity. BIO uses the first
two, BIOES all four.

Source: Ramshaw & Marcus 1995, "Text chunking using transformation-based learning"; the lenient reading of malformed
sequences is that of conlleval (CoNLL-2000), which seqeval 1.2 follows by default.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tfpipe.core.errors import DataError

OUTSIDE = "O"
Scheme: TypeAlias = Literal["BIO", "BIOES"]

_PREFIXES = "OBIES"
# A tag of these goes on with an entity of its own type; after the second row's tags it cannot.
_CONTINUES = "IE"
_IS_LAST = "ES"
# What may follow each prefix within an entity of one type. Source: the scheme's own definition.
_WITHIN: dict[str, dict[str, str]] = {
    "BIO": {"B": "I", "I": "I", "E": "", "S": ""},
    "BIOES": {"B": "IE", "I": "IE", "E": "", "S": ""},
}


class Span(NamedTuple):
    """One entity as positions of words (or sub-words).

    Attributes:
        label: Its type.
        start: First word.
        end: One past its last word.
    """

    label: str
    start: int
    end: int


class Transition(NamedTuple):
    """A tag that its scheme does not allow at its place.

    Attributes:
        position: Of the tag; the number of tags where the sequence ends too early.
        before: The tag before it; `O` at the beginning.
        tag: The tag; `O` at the end.
    """

    position: int
    before: str
    tag: str


def split_tag(tag: str) -> tuple[str, str]:
    """A tag's prefix and type; the type of a tag without one is `_`, as seqeval has it.

    Example:
        >>> split_tag("B-geo-loc")
        ('B', 'geo-loc')

    Raises:
        DataError: It begins with none of O, B, I, E and S.
    """
    prefix, rest = tag[:1], tag[1:]
    if not prefix or prefix not in _PREFIXES:
        raise DataError(f"tag: expected O, or B-, I-, E- or S- and a type, received {tag!r}.")
    return prefix, rest.split("-", maxsplit=1)[-1] or "_"


def entity_spans(tags: Sequence[str]) -> list[Span]:
    """The entities of a sequence, whether or not it keeps to a scheme.

    An inside or last tag that follows nothing of its type begins an entity, as seqeval reads it by default.

    Example:
        >>> entity_spans(["I-PER", "I-PER", "O", "B-LOC", "E-ORG"])
        [Span(label='PER', start=0, end=2), Span(label='LOC', start=3, end=4), Span(label='ORG', start=4, end=5)]

    Args:
        tags: One a word.

    Returns:
        In order; they do not overlap.

    Raises:
        DataError: See `split_tag`.
    """
    spans: list[Span] = []
    start, before, kind_before = 0, OUTSIDE, ""
    for position, tag in enumerate([*tags, OUTSIDE]):
        prefix, kind = split_tag(tag)
        goes_on = prefix in _CONTINUES and before != OUTSIDE and before not in _IS_LAST and kind == kind_before
        if before != OUTSIDE and not goes_on:
            spans.append(Span(kind_before, start, position))
        if not goes_on:
            start = position
        before, kind_before = prefix, kind
    return spans


def scheme_of(tags: Iterable[str]) -> Scheme:
    """The scheme of a data set: BIOES where any tag marks a last or an only word.

    Args:
        tags: All that occur, in any order.
    """
    return "BIOES" if any(tag[:1] in _IS_LAST for tag in tags if tag) else "BIO"


def invalid_transitions(tags: Sequence[str], scheme: Scheme) -> list[Transition]:
    """The places at which a sequence does not keep to its scheme; empty for a valid one.

    Example:
        >>> invalid_transitions(["O", "I-PER"], "BIO")
        [Transition(position=1, before='O', tag='I-PER')]

    Args:
        tags: One a word.
        scheme: What they should keep to.

    Raises:
        DataError: See `split_tag`.
    """
    found: list[Transition] = []
    before = OUTSIDE
    # BIOES says where an entity ends, so that the end of the sequence can be wrong too.
    for position, tag in enumerate([*tags, OUTSIDE]):
        if not _may_follow(before, tag, scheme):
            found.append(Transition(position, before, tag))
        before = tag
    return found


def _may_follow(before: str, tag: str, scheme: Scheme) -> bool:
    (prefix_before, kind_before), (prefix, kind) = split_tag(before), split_tag(tag)
    if scheme == "BIO" and prefix in _IS_LAST:
        return False
    if prefix_before != OUTSIDE and prefix in _WITHIN[scheme][prefix_before] and kind == kind_before:
        return True
    is_open = scheme == "BIOES" and prefix_before in "BI"
    return not is_open and prefix not in _CONTINUES


def character_entities(
    text: str,
    spans: Iterable[Span],
    starts: Sequence[int],
    ends: Sequence[int],
    scores: Sequence[float] | NDArray[np.floating],
) -> list[dict[str, Any]]:
    """Spans as the caller reads them.

    White space at either end, which sub-words of some tokenisers hold, is left out; so is an entity that has nothing
    else.

    Args:
        text: The caller's own string.
        spans: In words or sub-words.
        starts: (n,) where each word begins in `text`, in code points.
        ends: (n,) one past where it ends.
        scores: (n,) probability of each word's tag.

    Returns:
        `{"text", "label", "start", "end", "score"}` each: offsets in code points, end exclusive; the score is the mean
        over the entity's words.
    """
    entities: list[dict[str, Any]] = []
    for span in spans:
        start, end = int(starts[span.start]), int(ends[span.end - 1])
        surface = text[start:end]
        start += len(surface) - len(surface.lstrip())
        surface = surface.strip()
        if surface:
            score = float(np.mean(np.asarray(scores[span.start : span.end], np.float64)))
            end = start + len(surface)
            entities.append({"text": surface, "label": span.label, "start": start, "end": end, "score": score})
    return entities


def entity_counts(true: Sequence[Span], predicted: Sequence[Span], entity_types: Sequence[str]) -> NDArray[np.int64]:
    """What one sequence adds to the score: an entity is found where type, start and end agree.

    Sum over sequences, steps and workers, then ask `tfpipe.core.classification` for scores.

    Args:
        true: The entities that are there.
        predicted: Those that a model says.
        entity_types: All types, in the order of the rows.

    Returns:
        (types, 3) int64: true positives, predicted, true.

    Raises:
        DataError: A type is none of `entity_types`.
    """
    row_of = {name: row for row, name in enumerate(entity_types)}
    counts = np.zeros((len(row_of), 3), np.int64)
    for column, spans in enumerate((set(true) & set(predicted), predicted, true)):
        for span in spans:
            if span.label not in row_of:
                raise DataError(f"entity: expected a type among {', '.join(row_of)}, received {span.label!r}.")
            counts[row_of[span.label], column] += 1
    return counts


def types_of(tags: Iterable[str]) -> tuple[str, ...]:
    """The entity types among tags, sorted.

    Raises:
        DataError: See `split_tag`.
    """
    return tuple(sorted({kind for prefix, kind in map(split_tag, tags) if prefix != OUTSIDE}))
