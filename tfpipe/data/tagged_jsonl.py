"""Tagged texts in JSONL: `tokens` and `tags`, or `text` and `entities` with character offsets."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tfpipe.core.entities import OUTSIDE
from tfpipe.core.words import split_words
from tfpipe.data.encodings import read_text
from tfpipe.data.tables import Row, json_rows, read_each, shown
from tfpipe.data.text import UNTAGGED, TaggedText, TextRow, check_tag, join_words
from tfpipe.data.text_tables import checked_label, checked_text


def read_tagged_jsonl(file: Path, *, where: str) -> list[TextRow]:
    """The texts of a JSONL file of tagged tokens, or of texts with entities; a file may have both kinds of line.

    `{"tokens": ["Ana", "left"], "tags": ["B-PER", "O"]}` is read as tokens joined by one space.
    `{"text": "Ana left", "entities": [{"start": 0, "end": 3, "label": "PER"}]}` is cut into words by
    `tfpipe.core.words.split_words` and tagged BIO; offsets are code points, ends exclusive.

    Args:
        file: UTF-8, or UTF-16 with a byte order mark.
        where: The key or argument that it came from, for messages.

    Raises:
        DataError: A line of another form, token and tag counts that differ, entities that overlap, cut a word or lie
            outside of the text, or no line.
    """
    rows: list[TextRow] = []

    def add(row: Row) -> None:
        rows.append(TextRow(f"{file.name}:{row.line}", _tagged(row.values)))

    found, expected = json_rows(file, read_text(file)), "tokens and tags, or entities"
    read_each(found, add, file=file, where=where, expected=expected, advice=UNTAGGED)
    return rows


def tag_entities(text: str, entities: Sequence[tuple[int, int, str]]) -> TaggedText:
    """A text cut into words and tagged BIO.

    Args:
        text: Any.
        entities: (start, end, label) each, in code points, end exclusive; in any order.

    Raises:
        ValueError: One is empty, lies outside of the text, cuts a word or overlaps another; the message is a clause.
    """
    starts, ends = split_words(text)
    tags = [OUTSIDE] * len(starts)
    for start, end, label in sorted(entities):
        if not 0 <= start < end <= len(text):
            raise ValueError(f"expected an entity within the {len(text)} characters, received {start} to {end}.")
        inside = [word for word in range(len(starts)) if starts[word] < end and ends[word] > start]
        if not inside:
            raise ValueError(f"expected an entity of at least one word, received {text[start:end]!r} at {start}.")
        first, last = inside[0], inside[-1]
        for word in (first, last):
            if starts[word] < start or ends[word] > end:
                raise ValueError(
                    f"expected an entity of whole words, received {text[start:end]!r} at {start}, which cuts "
                    f"{text[starts[word] : ends[word]]!r}."
                )
        if any(tags[word] != OUTSIDE for word in inside):
            raise ValueError(f"expected entities that do not overlap, received {text[start:end]!r} at {start}.")
        tags[first : last + 1] = [f"B-{label}"] + [f"I-{label}"] * (last - first)
    return TaggedText(text, tuple(starts), tuple(ends), tuple(tags))


def _tagged(values: Any) -> TaggedText:
    if isinstance(values, dict) and {"tokens", "tags"} <= set(values):
        return _from_tokens(values["tokens"], values["tags"])
    if isinstance(values, dict) and {"text", "entities"} <= set(values):
        return _from_entities(values["text"], values["entities"])
    raise ValueError(
        f"expected an object with the keys tokens and tags, or text and entities; received {shown(values)}."
    )


def _from_tokens(tokens: Any, tags: Any) -> TaggedText:
    for name, value in (("tokens", tokens), ("tags", tags)):
        if not isinstance(value, list):
            raise ValueError(f"expected a list of {name}, received {shown(value)}.")
    if len(tokens) != len(tags):
        raise ValueError(f"expected as many tags as tokens, received {len(tags)} tags for {len(tokens)} tokens.")
    if not all(isinstance(token, str) and token for token in tokens):
        bad = next(token for token in tokens if not isinstance(token, str) or not token)
        raise ValueError(f"expected tokens as text, received {shown(bad)}.")
    return join_words([checked_text(token) for token in tokens], [check_tag(tag) for tag in tags])


def _from_entities(text: Any, entities: Any) -> TaggedText:
    checked = checked_text(text)
    if not isinstance(entities, list):
        raise ValueError(f"expected a list of entities, received {shown(entities)}.")
    return tag_entities(checked, [_entity(entity) for entity in entities])


def _entity(entity: Any) -> tuple[int, int, str]:
    if not isinstance(entity, dict) or not {"start", "end", "label"} <= set(entity):
        raise ValueError(f"expected entities with the keys start, end and label, received {shown(entity)}.")
    start, end, label = entity["start"], entity["end"], checked_label(entity["label"])
    for offset in (start, end):
        if not isinstance(offset, int) or isinstance(offset, bool):
            raise ValueError(f"expected integer offsets of an entity, received {shown(entity)}.")
    if not label:
        raise ValueError(f"expected the label of an entity, received {shown(entity)}.")
    return start, end, label
