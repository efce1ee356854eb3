"""Tables as text: CSV, TSV and JSONL to rows of named fields, each with its line."""

import contextlib
import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tfpipe.core.errors import DataError

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")
JSON_SUFFIXES = (".jsonl", ".ndjson")
_PROBLEMS_SHOWN = 5


class Row(NamedTuple):
    """One row of a table.

    Attributes:
        line: Where it begins in the file, from 1.
        values: Its fields by column, or (JSONL) whatever stands there.
        problem: What is wrong with the row's form, as a clause; "" where nothing is.
    """

    line: int
    values: Any
    problem: str = ""


def csv_rows(
    file: Path, text: str, columns: Sequence[str] | None, *, check_header: Callable[[Sequence[str], str], None]
) -> Iterator[Row]:
    """The rows of a CSV or (by its suffix) TSV table; blank lines are left out, and in CSV spaces before a field.

    In a TSV, quotes enclose a field only where the whole file reads so: text that was never quoted often holds them.

    Args:
        file: For its suffix and for messages.
        text: Its content.
        columns: Column names of a table without a header.
        check_header: Called with the column names and the header as it stands in the file; raises DataError.

    Raises:
        DataError: Not CSV, or a header beside `columns`.
    """
    delimiter = "\t" if file.suffix.lower() == ".tsv" else ","
    header = None if columns is None else list(columns)
    for line, fields in _records(file, text, delimiter):
        if header is None:
            header = [field.strip() for field in fields]
            check_header(header, delimiter.join(fields))
        elif columns is not None and line == 1 and [field.strip() for field in fields] == header:
            raise DataError(f"{file}: expected no header beside data.columns={header}, received one. Drop the key.")
        elif len(fields) != len(header):
            yield Row(line, {}, f"expected {len(header)} fields, received {len(fields)}.")
        else:
            yield Row(line, dict(zip(header, fields, strict=True)))


def json_rows(file: Path, text: str) -> Iterator[Row]:
    """The values of a file of JSON lines; blank lines are left out.

    Args:
        file: For messages.
        text: Its content.

    Raises:
        DataError: A line is not JSON.
    """
    # Not splitlines: JSON strings may hold U+2028 and its like.
    for line, content in enumerate(text.split("\n"), start=1):
        if not content.strip():
            continue
        try:
            values = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{file}, line {line}: expected one JSON object; {error}.") from error
        yield Row(line, values)


def refuse(problems: Sequence[str], *, where: str, expected: str, of: str = "row") -> None:
    """Raise one DataError for all that is wrong with a data set's rows, if anything is.

    Args:
        problems: A sentence each, with file and line.
        where: The key or argument that the data came from.
        expected: What every row should have.
        of: What a row is.
    """
    if problems:
        more = f"\n  and {len(problems) - _PROBLEMS_SHOWN} more" if len(problems) > _PROBLEMS_SHOWN else ""
        shown = "".join(f"\n  {problem}" for problem in problems[:_PROBLEMS_SHOWN])
        raise DataError(f"{where}: expected {expected} in every {of}; {len(problems)} differ{shown}{more}")


def _records(file: Path, text: str, delimiter: str) -> list[tuple[int, list[str]]]:
    if delimiter == "," or '"' not in text:
        return _parse(file, text, delimiter, csv.QUOTE_MINIMAL)
    plain = _parse(file, text, delimiter, csv.QUOTE_NONE)
    is_table = len({len(fields) for _, fields in plain}) == 1
    try:
        quoted = _parse(file, text, delimiter, csv.QUOTE_MINIMAL)
    except DataError:
        if is_table:
            return plain
        raise
    # A quote that opens a field by mistake swallows tabs and lines up to the next one: fewer fields, or fewer rows.
    same_shape = [(line, len(fields)) for line, fields in plain] == [(line, len(fields)) for line, fields in quoted]
    return plain if is_table and not same_shape else quoted


def _parse(file: Path, text: str, delimiter: str, quoting: Any) -> list[tuple[int, list[str]]]:
    records: list[tuple[int, list[str]]] = []
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=delimiter,
        quoting=quoting,
        # `"text", "label"` is a way to write CSV; in a TSV a space belongs to the field.
        skipinitialspace=delimiter == ",",
        strict=True,
    )
    with _any_field_size(len(text)):
        while True:
            line = reader.line_num + 1
            try:
                fields = next(reader, None)
            except csv.Error as error:
                raise DataError(f"{file}, line {reader.line_num}: expected CSV; {error}.") from error
            if fields is None:
                return records
            if any(field.strip() for field in fields):
                records.append((line, fields))


@contextlib.contextmanager
def _any_field_size(size: int) -> Iterator[None]:
    """The csv module's own limit, 131,072 characters, is for the whole process, and a long text passes it."""
    before = csv.field_size_limit(max(size, csv.field_size_limit()))
    try:
        yield
    finally:
        csv.field_size_limit(before)
