"""Labelled texts in CSV, TSV and JSONL tables: `text` and `label`, or columns that the config names."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tfpipe.data.labels import class_order
from tfpipe.data.tables import JSON_SUFFIXES, Row, read_each, refuse, shown, table_rows
from tfpipe.data.text import Kind, TextRow, TextSource

SEPARATOR = "|"
_ADVICE = (
    "Name yours with data.text_column and data.label_column, or, of a table without a header, all with "
    "data.columns=[text,label]. Tagged words go with task=token_classification, images with task=image_classification."
)


class LabelledText(NamedTuple):
    """A text with its label as it was written.

    Attributes:
        place: File and line, for messages.
        identifier: Of the sample.
        text: As it was given.
        label: One string, or a tuple of several.
        may_hold_several: Whether `|` in the string parts several labels.
    """

    place: str
    identifier: str
    text: str
    label: str | tuple[str, ...]
    may_hold_several: bool = False


def read_table(
    file: Path, columns: Sequence[str] | None = None, *, text_column: str, label_column: str, where: str
) -> list[LabelledText]:
    """The rows of a table of texts.

    Args:
        file: An existing .csv, .tsv, .jsonl or .ndjson file.
        columns: Names of the columns of a CSV or TSV without a header.
        text_column: Which column (key, in JSONL) is the text.
        label_column: Which is the label: a string or an integer; in JSONL also a list of them.
        where: The key or argument that it came from, for messages.

    Raises:
        DataError: A column is missing, a text is null, a number or a list, a label is none, or there are no rows.
    """
    needed = (text_column, label_column)
    is_json = file.suffix.lower() in JSON_SUFFIXES
    rows: list[LabelledText] = []

    def add(row: Row) -> None:
        text, label = checked_text(row.values[text_column]), _label(row.values[label_column])
        place = f"{file}, line {row.line}"
        rows.append(LabelledText(place, f"{file.name}:{row.line}", text, label, may_hold_several=not is_json))

    found = table_rows(file, columns, needed=needed, advice=_ADVICE)
    read_each(found, add, file=file, where=where, expected="a text and a label")
    return rows


def read_column(file: Path, columns: Sequence[str] | None = None, *, text_column: str, where: str) -> list[str]:
    """The texts of a table, which needs no labels.

    Args:
        file: An existing .csv, .tsv, .jsonl or .ndjson file.
        columns: Names of the columns of a CSV or TSV without a header.
        text_column: Which column (key, in JSONL) is the text.
        where: The key or argument that it came from, for messages.

    Raises:
        DataError: The column is missing, a text is null, a number or a list, or there are no rows.
    """
    texts: list[str] = []
    found = table_rows(file, columns, needed=[text_column], advice=_ADVICE)
    read_each(
        found, lambda row: texts.append(checked_text(row.values[text_column])),
        file=file, where=where, expected="a text",
    )  # fmt: skip
    return texts


def labelled_source(
    rows: Sequence[LabelledText], *, multi_label: bool | None, max_chars: int, where: str, names: Sequence[str] = ()
) -> TextSource:
    """A source of labelled texts; several labels a text where the data have them, unless `multi_label` says.

    Args:
        rows: Not empty.
        multi_label: Whether a text may have several labels or none; None: where a label is a list or, in a table,
            holds `|`.
        max_chars: See `TextSource`.
        where: The key or argument that the rows came from, for messages.
        names: Label names in order; empty for those that occur, sorted.

    Raises:
        DataError: A text has no label, or several where it should have one.
    """
    if multi_label is None:
        multi_label = any(
            isinstance(row.label, tuple) or (SEPARATOR in row.label and row.may_hold_several) for row in rows
        )
    labelled: list[TextRow] = []
    problems: list[str] = []
    for row in rows:
        try:
            labels = _several(row) if multi_label else _one(row)
        except ValueError as error:
            problems.append(f"{row.place}: {error}")
            continue
        labelled.append(TextRow(row.identifier, row.text, labels))
    refuse(problems, where=where, expected="a label")
    kind: Kind = "multi" if multi_label else "single"
    order = tuple(names) or class_order(name for row in labelled for name in row.labels)
    return TextSource(labelled, order, kind=kind, max_chars=max_chars, where=where)


def checked_text(value: Any) -> str:
    """A text as data may have it.

    Raises:
        ValueError: It is no string, or holds half of a surrogate pair, which no encoding has; the message is a clause.
    """
    if not isinstance(value, str):
        raise ValueError(f"expected text, received {shown(value)}.")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"expected text, received half of a surrogate pair at character {error.start}.") from error
    return value


def checked_label(value: Any) -> str:
    """A label as data may have it: a string, or an integer as its digits.

    Raises:
        ValueError: Something else; the message is a clause.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        raise ValueError(f"expected a label (text or an integer), received {shown(value)}.")
    return checked_text(value).strip()


def _label(value: Any) -> str | tuple[str, ...]:
    return tuple(checked_label(name) for name in value) if isinstance(value, list) else checked_label(value)


def _several(row: LabelledText) -> tuple[str, ...]:
    names = row.label if isinstance(row.label, tuple) else (row.label,)
    if row.may_hold_several:
        names = tuple(part.strip() for name in names for part in name.split(SEPARATOR) if part.strip())
    if "" in names:
        raise ValueError("expected labels, received '' among them.")
    return tuple(sorted(set(names)))


def _one(row: LabelledText) -> tuple[str, ...]:
    if isinstance(row.label, tuple):
        raise ValueError(f"expected one label, received a list of {len(row.label)}. Is data.multi_label=true meant?")
    if not row.label:
        raise ValueError("expected a label, received ''.")
    return (row.label,)
