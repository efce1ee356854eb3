"""Tables as text: CSV, TSV and JSONL to rows of named fields, each with its line."""

import contextlib
import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tfpipe.core.errors import DataError
from tfpipe.data.encodings import read_text
from tfpipe.data.text import listed

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson")
JSON_SUFFIXES = (".jsonl", ".ndjson")
_PROBLEMS_SHOWN = 5
_NAMES_SHOWN = 20
_VALUE_SHOWN = 80
# How else columns are parted, and what to do about it.
_DELIMITERS = {
    "\t": "Its columns are parted by tabs: name it .tsv.",
    ",": "Its columns are parted by commas: name it .csv.",
    ";": "Its columns are parted by semicolons: write it with commas, or with tabs and named .tsv.",
}


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


def table_rows(file: Path, columns: Sequence[str] | None, *, needed: Sequence[str], advice: str) -> Iterator[Row]:
    """The rows of a CSV, TSV or JSONL table (by its suffix), each with the columns that are needed.

    Blank lines are left out, and in CSV spaces before a field. In a TSV, quotes enclose a field only where the whole
    file reads so: text that was never quoted often holds them.

    Args:
        file: An existing file.
        columns: Column names of a CSV or TSV without a header.
        needed: Columns (keys, in JSONL) that must be there.
        advice: What to do where one is not, as sentences.

    Raises:
        DataError: A column is missing or there twice, a header stands beside `columns`, or the file is in another
            encoding or no table.
    """
    if columns is not None:
        check_columns(columns, needed, where="data.columns", advice=advice)
    text = read_text(file)
    if file.suffix.lower() in JSON_SUFFIXES:
        yield from _rows_with_keys(file, json_rows(file, text), needed, advice)
    else:
        yield from _csv_rows(file, text, columns, needed, advice)


def check_columns(
    names: Sequence[str], needed: Sequence[str], *, where: str, advice: str, noun: str = "column"
) -> None:
    """Refuse names of columns without those that are needed.

    Args:
        names: What there is.
        needed: What there must be.
        where: File or key, for messages.
        advice: What to do, as sentences.
        noun: What a name is of.

    Raises:
        DataError: One of those needed is missing, or there twice.
    """
    if not set(needed) <= set(names):
        wanted = f"the {noun}{'s' if len(needed) > 1 else ''} {' and '.join(map(repr, needed))}"
        raise DataError(f"{where}: expected {wanted}, received {listed(names, _NAMES_SHOWN) or 'none'}. {advice}")
    if any(list(names).count(name) > 1 for name in needed):
        raise DataError(f"{where}: expected distinct {noun}s, received {listed(names, _NAMES_SHOWN)}.")


def read_each(
    found: Iterable[Row], add: Callable[[Row], None], *, file: Path, where: str, expected: str, advice: str = ""
) -> None:
    """Hand every row to `add`, and refuse the table with all that it finds wrong.

    Args:
        found: The rows.
        add: Takes a row; raises ValueError with a clause for one that cannot be used.
        file: For messages.
        where: The key or argument that it came from, for messages.
        expected: What every row should have.
        advice: What to do where none has, as sentences.

    Raises:
        DataError: A row cannot be used, or there is none.
    """
    problems: list[str] = []
    num_rows = 0
    for row in found:
        num_rows += 1
        try:
            if row.problem:
                raise ValueError(row.problem)
            add(row)
        except ValueError as error:
            problems.append(f"{file}, line {row.line}: {error}")
    refuse(problems, where=where, expected=expected, advice=advice if len(problems) == num_rows else "")
    if not num_rows:
        raise DataError(f"{where}: expected rows in {str(file)!r}, found none.")


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


def refuse(problems: Sequence[str], *, where: str, expected: str, of: str = "row", advice: str = "") -> None:
    """Raise one DataError for all that is wrong with a data set's rows, if anything is.

    Args:
        problems: A sentence each, with file and line.
        where: The key or argument that the data came from.
        expected: What every row should have.
        of: What a row is.
        advice: What to do, as sentences.
    """
    if problems:
        more = f"\n  and {len(problems) - _PROBLEMS_SHOWN} more" if len(problems) > _PROBLEMS_SHOWN else ""
        shown = "".join(f"\n  {problem}" for problem in problems[:_PROBLEMS_SHOWN])
        todo = f"\n{advice}" if advice else ""
        raise DataError(f"{where}: expected {expected} in every {of}; {len(problems)} differ{shown}{more}{todo}")


def shown(value: Any) -> str:
    """A JSON value as far as a message shows it; of another value its type."""
    try:
        written = json.dumps(value, ensure_ascii=True)
    except TypeError:
        return type(value).__name__
    return written if len(written) <= _VALUE_SHOWN else written[:_VALUE_SHOWN] + "..."


def _csv_rows(
    file: Path, text: str, columns: Sequence[str] | None, needed: Sequence[str], advice: str
) -> Iterator[Row]:
    delimiter = "\t" if file.suffix.lower() == ".tsv" else ","
    header = None if columns is None else list(columns)
    for line, fields in _records(file, text, delimiter):
        if header is None:
            header = [field.strip() for field in fields]
            hint = _other_delimiter(fields, lambda names: set(needed) <= {name.strip(' "') for name in names})
            check_columns(header, needed, where=str(file), advice=hint or advice)
        elif columns is not None and line == 1 and [field.strip() for field in fields] == header:
            raise DataError(f"{file}: expected no header beside data.columns={header}, received one. Drop the key.")
        elif len(fields) != len(header):
            width = len(header)
            hint = _other_delimiter(fields, lambda parts: len(parts) == width)  # noqa: B023
            yield Row(line, {}, f"expected {width} fields, received {len(fields)}. {hint}".rstrip())
        else:
            yield Row(line, dict(zip(header, fields, strict=True)))


def _other_delimiter(fields: Sequence[str], fits: Callable[[Sequence[str]], bool]) -> str:
    """What a row of one field says about how its columns are parted, if anything; a sentence."""
    if len(fields) == 1:
        for delimiter, sentence in _DELIMITERS.items():
            if fits(fields[0].split(delimiter)):
                return sentence
    return ""


def _rows_with_keys(file: Path, rows: Iterator[Row], needed: Sequence[str], advice: str) -> Iterator[Row]:
    for number, row in enumerate(rows):
        values = row.values
        if not isinstance(values, dict):
            problem = f"expected an object with the keys {' and '.join(needed)}, received {shown(values)}."
            yield row._replace(problem=problem)
            continue
        if number == 0:
            # As a header would: where the first object lacks a key, so do all.
            check_columns(list(values), needed, where=f"{file}, line {row.line}", advice=advice, noun="key")
        missing = [key for key in needed if key not in values]
        problem = f"expected the key {missing[0]!r}, received {listed(list(values)) or 'none'}." if missing else ""
        yield row._replace(problem=problem)


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
