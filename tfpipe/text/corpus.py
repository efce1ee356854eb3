"""The texts of a file, to train a tokenizer on."""

import csv
import json
from collections.abc import Iterator
from pathlib import Path

from tfpipe.core.errors import DataError

_COLUMN = "text"
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
# A text of 10 MB is one field; the standard library's own limit is 128 KiB.
_MAX_FIELD_CHARS = 1 << 30


def read_texts(path: str | Path) -> Iterator[str]:
    """Texts in the order of the file.

    Args:
        path: .txt, a text a line; .csv, .tsv or .jsonl, their column `text`.

    Raises:
        DataError: No such file, another form, not UTF-8, or no such column; with the line.
    """
    file = Path(path)
    if not file.is_file():
        raise DataError(f"{file}: expected a file of texts (.txt, .csv, .tsv or .jsonl), found none.")
    try:
        # newline="": only the csv module may join lines; a text keeps the rarer line separators within it.
        with open(file, encoding="utf-8-sig", newline="") as lines:
            if file.suffix == ".txt":
                yield from (line.rstrip("\r\n") for line in lines)
            elif file.suffix == ".jsonl":
                yield from (_json_text(line, f"{file}, line {number}") for number, line in enumerate(lines, 1))
            elif file.suffix in _DELIMITERS:
                csv.field_size_limit(_MAX_FIELD_CHARS)
                yield from _column(csv.DictReader(lines, delimiter=_DELIMITERS[file.suffix], strict=True), file)
            else:
                raise DataError(
                    f"{file}: expected .txt, .csv, .tsv or .jsonl, received {file.suffix or 'no ending'!r}."
                )
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: expected UTF-8; {error}. Save the file as UTF-8.") from error


def _column(rows: "csv.DictReader[str]", file: Path) -> Iterator[str]:
    columns = rows.fieldnames or []
    if _COLUMN not in columns:
        raise DataError(f"{file}: expected a column {_COLUMN!r}, received the columns {', '.join(columns) or 'none'}.")
    try:
        for row in rows:
            if row[_COLUMN] is None:
                raise DataError(f"{file}, line {rows.line_num}: expected {len(columns)} fields, received fewer.")
            yield row[_COLUMN]
    except csv.Error as error:
        raise DataError(f"{file}, line {rows.line_num}: expected a table; {error}.") from error


def _json_text(line: str, where: str) -> str:
    try:
        text = json.loads(line)[_COLUMN]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{where}: expected a JSON object with {_COLUMN!r}, received {line[:60]!r}.") from error
    if not isinstance(text, str):
        raise DataError(f"{where}: {_COLUMN}: expected a string, received {type(text).__name__}.")
    return text
