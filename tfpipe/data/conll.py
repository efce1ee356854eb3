"""CoNLL files: a word and its tag a line, a blank line between sentences.

Source: Tjong Kim Sang & De Meulder 2003, "Introduction to the CoNLL-2003 shared task", section 2.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from tfpipe.core.errors import DataError
from tfpipe.data.encodings import read_text
from tfpipe.data.tables import check_columns, refuse
from tfpipe.data.text import UNTAGGED, TextRow, check_tag, join_words

_DOCUMENT = "-DOCSTART-"
_ADVICE = "Name the columns of the word and the tag with data.text_column and data.label_column."


def read_conll(
    file: Path, columns: Sequence[str] | None = None, *, text_column: str, label_column: str, where: str
) -> list[TextRow]:
    """The sentences of a CoNLL file.

    Columns are parted by tabs where a line has one, else by spaces; the first is the word and the last its tag unless
    `columns` says otherwise. Lines that begin with -DOCSTART- are left out, and so are comments: lines before a
    sentence that begin with `#` and do not end in a tag (`#` is a word too).

    Args:
        file: UTF-8, or UTF-16 with a byte order mark.
        columns: Names of the columns; `text_column` and `label_column` must be among them.
        text_column: Which of them is the word.
        label_column: Which of them is the tag.
        where: The key or argument that it came from, for messages.

    Raises:
        DataError: Lines without word or tag, a tag that is none, or no sentence.
    """
    word_at, tag_at = _positions(columns, text_column, label_column)
    rows: list[TextRow] = []
    problems: list[str] = []
    sentence: list[tuple[str, str]] = []
    width, first_line = (0 if columns is None else len(columns)), 0

    def close() -> None:
        if sentence:
            words, tags = zip(*sentence, strict=True)
            rows.append(TextRow(f"{file.name}:{first_line}", join_words(words, tags)))
            sentence.clear()

    # Not splitlines: words may hold U+0085 and its like.
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        fields = _fields(line)
        if not fields or fields[0] == _DOCUMENT:
            close()
            continue
        if not sentence and _is_comment(fields):
            continue
        first_line = first_line if sentence else number
        width = width or len(fields)
        try:
            sentence.append(_word_and_tag(fields, width, word_at, tag_at))
        except ValueError as error:
            problems.append(f"{file}, line {number}: {error}")
    close()
    refuse(problems, where=where, expected="a word and a tag", of="line", advice="" if rows else UNTAGGED)
    if not rows:
        raise DataError(f"{where}: expected sentences in {str(file)!r}, found none.")
    return rows


def _positions(columns: Sequence[str] | None, text_column: str, label_column: str) -> tuple[int, int]:
    if columns is None:
        return 0, -1
    check_columns(columns, (text_column, label_column), where="data.columns", advice=_ADVICE)
    return list(columns).index(text_column), list(columns).index(label_column)


def _fields(line: str) -> list[str]:
    # Not str.split(): words may hold a no-break space.
    line = line.strip(" \r")
    if not line.strip("\t "):
        return []
    return [field.strip(" ") for field in line.split("\t")] if "\t" in line else re.split(" +", line)


def _is_comment(fields: Sequence[str]) -> bool:
    if not fields[0].startswith("#"):
        return False
    try:
        check_tag(fields[-1])
    except ValueError:
        return True
    return len(fields) == 1


def _word_and_tag(fields: Sequence[str], width: int, word_at: int, tag_at: int) -> tuple[str, str]:
    if width < 2 or len(fields) != width:
        raise ValueError(f"expected {max(width, 2)} columns, received {len(fields)}.")
    if not fields[word_at]:
        raise ValueError("expected a word, received ''.")
    return fields[word_at], check_tag(fields[tag_at])
