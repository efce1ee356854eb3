"""Labelled texts in CSV, TSV and JSONL tables: `text` and `label`, or columns that the config names."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tfpipe.core.errors import DataError
from tfpipe.data.encodings import read_text
from tfpipe.data.labels import class_order
from tfpipe.data.tables import JSON_SUFFIXES, Row, csv_rows, json_rows, refuse
from tfpipe.data.text import Kind, TextRow, TextSource, listed

SEPARATOR = "|"
_VALUE_SHOWN = 80


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
    is_json = file.suffix.lower() in JSON_SUFFIXES
    if columns is not None:
        _check_columns(columns, text_column, label_column, where="data.columns")
    content = read_text(file)
    found = (
        json_rows(file, content)
        if is_json
        else csv_rows(
            file, content, columns,
            check_header=lambda names, _: _check_columns(names, text_column, label_column, where=str(file)),
        )
    )  # fmt: skip
    rows: list[LabelledText] = []

    def add(row: Row) -> None:
        text, label = _text_and_label(row, text_column, label_column)
        place = f"{file}, line {row.line}"
        rows.append(LabelledText(place, f"{file.name}:{row.line}", text, label, may_hold_several=not is_json))

    read_each(found, add, file=file, where=where, expected="a text and a label")
    return rows


def read_each(found: Iterator[Row], add: Callable[[Row], None], *, file: Path, where: str, expected: str) -> None:
    """Hand every row to `add`, and refuse the table with all that it finds wrong.

    Args:
        found: The rows.
        add: Takes a row; raises ValueError with a clause for one that cannot be used.
        file: For messages.
        where: The key or argument that it came from, for messages.
        expected: What every row should have.

    Raises:
        DataError: A row cannot be used, or there is none.
    """
    problems: list[str] = []
    is_empty = True
    for row in found:
        is_empty = False
        try:
            if row.problem:
                raise ValueError(row.problem)
            add(row)
        except ValueError as error:
            problems.append(f"{file}, line {row.line}: {error}")
    refuse(problems, where=where, expected=expected)
    if is_empty:
        raise DataError(f"{where}: expected rows in {str(file)!r}, found none.")


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


def shown(value: Any) -> str:
    """A JSON value as far as a message shows it."""
    written = json.dumps(value, ensure_ascii=True)
    return written if len(written) <= _VALUE_SHOWN else written[:_VALUE_SHOWN] + "..."


def _check_columns(names: Sequence[str], text_column: str, label_column: str, *, where: str) -> None:
    missing = [column for column in (text_column, label_column) if column not in names]
    if missing:
        raise DataError(
            f"{where}: expected the columns {text_column!r} and {label_column!r}, received {listed(names)}. Name yours "
            "with data.text_column and data.label_column; for a table without a header set data.columns=[text,label]."
        )
    if len(set(names)) != len(names):
        raise DataError(f"{where}: expected distinct columns, received {listed(names)}.")


def _text_and_label(row: Row, text_column: str, label_column: str) -> tuple[str, str | tuple[str, ...]]:
    values = row.values
    if not isinstance(values, dict):
        raise ValueError(
            f"expected an object with the keys {text_column} and {label_column}, received {shown(values)}."
        )
    missing = [key for key in (text_column, label_column) if key not in values]
    if missing:
        raise ValueError(f"expected the key {missing[0]!r}, received {listed(list(values)) or 'none'}.")
    label = values[label_column]
    if isinstance(label, list):
        return checked_text(values[text_column]), tuple(checked_label(name) for name in label)
    return checked_text(values[text_column]), checked_label(label)


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
