"""What batch prediction is given: files, folders and manifests, as a list of inputs to be read one at a time."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tfpipe.core.errors import ConfigError, DataError
from tfpipe.data.encodings import decode_text
from tfpipe.data.files import IMAGE_SUFFIXES, files_of, printable
from tfpipe.data.tables import TABLE_SUFFIXES, Row, table_rows
from tfpipe.data.text_files import TEXT_SUFFIXES
from tfpipe.inference.interface import Takes

_COLUMNS: dict[Takes, str] = {"image": "path", "text": "text"}
_SUFFIXES: dict[Takes, tuple[str, ...]] = {"image": IMAGE_SUFFIXES, "text": TEXT_SUFFIXES}
_VALUE_SHOWN = 80


@dataclass(frozen=True)
class PredictionInput:
    """One input.

    Attributes:
        name: The file; of a row of a manifest of texts, `file:line`.
        text: The row's text; None for a file.
        problem: Why the row cannot be answered; "" where it can.
    """

    name: str
    text: str | None = None
    problem: str = ""

    def read(self, takes: Takes) -> bytes | str:
        """The encoded image, or the text.

        Raises:
            DataError: It cannot be read.
        """
        if self.problem:
            raise DataError(f"{printable(self.name)}: {self.problem}")
        if self.text is not None:
            return self.text
        try:
            content = Path(self.name).read_bytes()
        except OSError as error:
            raise DataError(f"{printable(self.name)}: expected a readable file; {error.strerror or error}.") from error
        except ValueError as error:
            # A NUL in the name.
            raise DataError(f"{self.name!r}: expected a readable file; {error}.") from error
        if takes == "image":
            return content
        # As training reads a file of text: editors end it with a line break, which is no part of the text.
        return decode_text(content, where=printable(self.name)).rstrip("\r\n")


def check_inputs(inputs: Sequence[str | Path]) -> None:
    """Refuse inputs that do not exist, which takes no model.

    Raises:
        ConfigError: Names the first.
    """
    for given in inputs:
        if not Path(given).exists():
            raise ConfigError(f"input: expected a file, a folder or a manifest, found nothing at {str(given)!r}.")


def list_inputs(inputs: Sequence[str | Path], takes: Takes) -> list[PredictionInput]:
    """What the inputs name, in order.

    Args:
        inputs: Files, folders (searched in depth, sorted), or manifests: of images with a column `path`, relative to
            the manifest's folder; of texts with a column `text`. No label is needed.
        takes: What the model takes.

    Raises:
        ConfigError: There is nothing in them, or a manifest lacks the column.
        DataError: A manifest cannot be read.
    """
    found: list[PredictionInput] = []
    for given in inputs:
        path = Path(given)
        if path.is_dir():
            found += [PredictionInput(file) for file in files_of(path, _SUFFIXES[takes])]
        elif path.suffix.lower() in TABLE_SUFFIXES:
            found += _manifest(path, takes)
        else:
            found.append(PredictionInput(str(path)))
    if not found:
        raise ConfigError(f"input: expected {takes} files, found none in {', '.join(str(i) for i in inputs)}.")
    return found


def digest(inputs: Sequence[PredictionInput]) -> str:
    """Hex sha256 of what is asked: names, and the texts of manifests."""
    # As JSON, since names and texts may hold what UTF-8 cannot say.
    return hashlib.sha256(json.dumps([[given.name, given.text] for given in inputs]).encode()).hexdigest()


def _manifest(file: Path, takes: Takes) -> list[PredictionInput]:
    rows = table_rows(file, None, needed=(_COLUMNS[takes],), advice="No label is needed.")
    return [_input_of(file, row, takes) for row in rows]


def _input_of(file: Path, row: Row, takes: Takes) -> PredictionInput:
    place = f"{file}:{row.line}"
    if row.problem:
        return PredictionInput(place, problem=row.problem)
    column = _COLUMNS[takes]
    value = row.values.get(column) if isinstance(row.values, dict) else row.values
    if not isinstance(row.values, dict) or not isinstance(value, str):
        received = json.dumps(value)[:_VALUE_SHOWN]
        return PredictionInput(place, problem=f"expected a string as `{column}`, received {received}.")
    return PredictionInput(str(file.parent / value)) if takes == "image" else PredictionInput(place, value)
