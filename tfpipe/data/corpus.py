"""The texts of a file, without labels: what a tokenizer is trained on."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tfpipe.core.errors import DataError
from tfpipe.data.encodings import read_text
from tfpipe.data.tables import JSON_SUFFIXES, TABLE_SUFFIXES, csv_rows, json_rows

_COLUMN = "text"


def read_texts(path: str | Path) -> Iterator[str]:
    """Texts in the order of the file.

    Args:
        path: .txt, a text a line; .csv, .tsv or .jsonl, their column `text`.

    Raises:
        DataError: No such file, another form, an encoding that is not read, or no such column; with the line.
    """
    file = Path(path)
    suffix = file.suffix.lower()
    known = (".txt", *TABLE_SUFFIXES)
    if not file.is_file():
        raise DataError(f"{file}: expected a file of texts ({', '.join(known)}), found none.")
    if suffix not in known:
        raise DataError(f"{file}: expected {', '.join(known)}, received {suffix or 'no ending'!r}.")
    content = read_text(file)
    if suffix == ".txt":
        # Not splitlines: a text keeps the rarer line separators within it.
        yield from (line.removesuffix("\r") for line in content.removesuffix("\n").split("\n"))
        return
    if suffix in JSON_SUFFIXES:
        rows = json_rows(file, content)
    else:
        rows = csv_rows(file, content, None, check_header=lambda header, _: _check_columns(file, header))
    for row in rows:
        yield _text(row.values, row.problem, f"{file}, line {row.line}")


def _check_columns(file: Path, header: Sequence[str]) -> None:
    if _COLUMN not in header:
        raise DataError(f"{file}: expected a column {_COLUMN!r}, received the columns {', '.join(header)}.")


def _text(values: Any, problem: str, where: str) -> str:
    if problem:
        raise DataError(f"{where}: {problem}")
    if not isinstance(values, dict) or _COLUMN not in values:
        raise DataError(f"{where}: expected a JSON object with {_COLUMN!r}, received {str(values)[:60]!r}.")
    text = values[_COLUMN]
    if not isinstance(text, str):
        raise DataError(f"{where}: {_COLUMN}: expected a string, received {type(text).__name__}.")
    return text
