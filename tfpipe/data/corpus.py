"""The texts of a data set, without labels: what a tokenizer is trained on."""

from collections.abc import Iterator
from pathlib import Path

from tfpipe.core.errors import DataError
from tfpipe.data.encodings import read_text
from tfpipe.data.tables import TABLE_SUFFIXES
from tfpipe.data.text_files import TEXT_SUFFIXES, TextForm, open_text
from tfpipe.data.text_tables import read_column


def read_texts(path: str, form: TextForm, *, where: str = "data.path") -> Iterator[str]:
    """Texts in the order of the data.

    Args:
        path: What `open_text` opens, tables also without labels; for text_classification also a .txt file, a text a
            line.
        form: How to read it.
        where: The key or argument that `path` came from, for messages.

    Raises:
        DataError: Nothing is there, it is of another form or encoding, or has no such column; with the line.
    """
    file = Path(path).expanduser()
    is_plain = form.task == "text_classification" and file.is_file()
    if is_plain and file.suffix.lower() in TEXT_SUFFIXES:
        # Not splitlines: a text keeps the rarer line separators within it.
        lines = read_text(file).removesuffix("\n").split("\n")
        yield from (line.removesuffix("\r") for line in lines)
    elif is_plain and file.suffix.lower() in TABLE_SUFFIXES:
        yield from read_column(file, form.columns, text_column=form.text_column, where=where)
    else:
        source = open_text(path, form, where=where)
        if source is None:
            raise DataError(f"{where}: expected {path}('train') to return data, received None.")
        yield from (source.text(index) for index in range(len(source)))
