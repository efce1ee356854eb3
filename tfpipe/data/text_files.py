"""The one place that opens every form of `data.path` for texts."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Literal, TypeAlias

from tqdm import tqdm

from tfpipe.config import parse_config
from tfpipe.core.errors import DataError, DecodeError
from tfpipe.data.conll import read_conll
from tfpipe.data.encodings import decode_text
from tfpipe.data.files import open_class_folders
from tfpipe.data.functions import call_function
from tfpipe.data.sources import DIGITS, MESSAGES, find_shards, is_function
from tfpipe.data.tables import JSON_SUFFIXES, TABLE_SUFFIXES, refuse, shown
from tfpipe.data.tagged_jsonl import read_tagged_jsonl
from tfpipe.data.text import UNTAGGED, Kind, TaggedText, TextRow, TextSource, check_tag, join_words, tag_names
from tfpipe.data.text_shards import open_text_shards
from tfpipe.data.text_tables import LabelledText, checked_label, checked_text, labelled_source, read_table
from tfpipe.settings import Config

TextTask: TypeAlias = Literal["text_classification", "token_classification"]
TEXT_SUFFIXES = (".txt",)
_MESSAGES_FILE = "embedded/support_messages.tsv"
_PROGRESS_AFTER_S = 2.0
_OTHER_TASKS = "Images go with task=image_classification, tagged words with task=token_classification."


@dataclass(frozen=True)
class TextForm:
    """How texts are read; the keys of the config's section `data` of the same names.

    Attributes:
        task: What is learnt.
        columns: Column names of a table without a header.
        text_column: Which column is the text.
        label_column: Which column is the label or tag.
        multi_label: Whether a text may have several labels; None: as the data look.
        max_text_chars: Longer texts count as corrupt.
    """

    task: TextTask
    columns: Sequence[str] | None = None
    text_column: str = "text"
    label_column: str = "label"
    multi_label: bool | None = None
    max_text_chars: int = 100_000

    @property
    def kind(self) -> Kind | None:
        """What the labels must be; None where the data decide."""
        if self.task == "token_classification":
            return "tags"
        return None if self.multi_label is None else "multi" if self.multi_label else "single"


def open_text(
    path: str, form: TextForm, *, split: str = "train", config: Config | None = None, where: str = "data.path"
) -> TextSource | None:
    """Open one of the forms of `data.path` for texts; they are read into memory.

    Args:
        path: For text_classification a CSV, TSV or JSONL table, a folder with one sub-folder of .txt files per class,
            or `messages`; for token_classification a JSONL or CoNLL file; for both TFRecord shards (folder, file or
            glob), or `package.module:function`.
        form: How to read it.
        split: "train", "validation" or "test"; what a function is asked for.
        config: The run, for a function; None means one with the task and `data.path` alone.
        where: The key or argument that `path` came from, for messages.

    Returns:
        The source; None only where a function says that it has no such split.

    Raises:
        DataError: Nothing is there, it is of no known form or encoding, or a row cannot be used; names file and line.
    """
    if not path.strip():
        raise DataError(f"{where}: expected a data set, received {path!r}.")
    if path in (DIGITS, MESSAGES):
        return _open_embedded(path, form, where)
    if is_function(path):
        run = config or parse_config({"task": form.task, "data": {"path": path}}, where=where)
        return _open_function(path, split, run, form, where)
    place, shards = find_shards(path, where=where)
    if shards:
        return open_text_shards(
            shards, kind=form.kind, max_chars=form.max_text_chars, where=where, whole_folder=place.is_dir()
        )
    if form.task == "token_classification":
        return _tagged_source(_read_tagged(place, form, where), form, where)
    if place.is_dir():
        return _open_folder(place, form, where)
    if place.suffix.lower() not in TABLE_SUFFIXES:
        raise DataError(
            f"{where}: expected a folder, a table ({', '.join(TABLE_SUFFIXES)}) or a TFRecord file (*.tfrecord), "
            f"received {str(place)!r}. CoNLL goes with task=token_classification."
        )
    rows = read_table(
        place, form.columns, text_column=form.text_column, label_column=form.label_column, where=where
    )  # fmt: skip
    return labelled_source(rows, multi_label=form.multi_label, max_chars=form.max_text_chars, where=where)


def _open_embedded(name: str, form: TextForm, where: str) -> TextSource:
    """The messages that come with tfpipe; what the config says of columns is about other data."""
    if name == DIGITS:
        raise DataError(
            f"{where}: expected texts, received {name!r}, which are images. Set task=image_classification, or "
            f"{where}={MESSAGES} with task=text_classification; a folder of that name is './{name}'."
        )
    if form.task != "text_classification":
        raise DataError(
            f"{where}: expected words with tags, received {name!r}, which have a label each. Set "
            f"task=text_classification; a file of that name is './{name}'."
        )
    with as_file(files("tfpipe.data") / _MESSAGES_FILE) as file:
        rows = read_table(file, text_column="text", label_column="label", where=where)
    return labelled_source(rows, multi_label=form.multi_label, max_chars=form.max_text_chars, where=where)


def _read_tagged(file: Path, form: TextForm, where: str) -> list[TextRow]:
    if not file.is_file() or file.suffix.lower() == ".csv":
        raise DataError(
            f"{where}: expected a CoNLL file, a JSONL file or TFRecord shards (*.tfrecord), received {str(file)!r}. "
            f"{UNTAGGED}"
        )
    if file.suffix.lower() in JSON_SUFFIXES:
        return read_tagged_jsonl(file, where=where)
    return read_conll(
        file, form.columns, text_column=form.text_column, label_column=form.label_column, where=where
    )  # fmt: skip


def _tagged_source(rows: Sequence[TextRow], form: TextForm, where: str) -> TextSource:
    tags = (tag for row in rows if isinstance(row.content, TaggedText) for tag in row.content.tags)
    return TextSource(rows, tag_names(tags), kind="tags", max_chars=form.max_text_chars, where=where)


def _open_folder(folder: Path, form: TextForm, where: str) -> TextSource:
    entries = open_class_folders(
        folder, where=where, suffixes=TEXT_SUFFIXES, what="text files",
        advice="Images go with task=image_classification.",
    )  # fmt: skip
    rows: list[TextRow] = []
    problems: list[str] = []
    for index in tqdm(range(len(entries)), desc="reading texts", delay=_PROGRESS_AFTER_S, disable=None, leave=False):
        identifier = entries.identifier(index)
        try:
            content, label = entries.read(index)
            # Editors end a file with a line break, which is no part of the text.
            text = decode_text(content, where=identifier).rstrip("\r\n")
        except DecodeError as error:
            problems.append(str(error))
            continue
        rows.append(TextRow(identifier, text, (entries.labels[label],)))
    refuse(problems, where=where, expected="text", of="file")
    kind: Kind = "multi" if form.multi_label else "single"
    return TextSource(
        rows, entries.labels, kind=kind, max_chars=form.max_text_chars, where=where, ignored=entries.ignored
    )  # fmt: skip


def _open_function(spec: str, split: str, config: Config, form: TextForm, where: str) -> TextSource | None:
    given, origin = call_function(spec, split, config, where=where)
    if given is None:
        return None
    missing = [name for name in ("__len__", "read") if not hasattr(given, name)]
    if missing:
        raise DataError(
            f"{origin}: expected a source of texts (__len__, read(i)) or None, received {type(given).__name__}, which "
            f"lacks {', '.join(missing)}."
        )
    samples: list[tuple[str, Any, Any]] = []
    for index in tqdm(range(len(given)), desc="reading texts", delay=_PROGRESS_AFTER_S, disable=None, leave=False):
        name = str(given.identifier(index)) if hasattr(given, "identifier") else f"{index:06d}"
        samples.append((name, *given.read(index)))
    if not samples:
        raise DataError(f"{origin}: expected samples, received none.")
    if form.task == "token_classification":
        return _tagged_source([_tagged_sample(*sample, origin) for sample in samples], form, where)
    names = tuple(getattr(given, "labels", ()))
    rows = [_labelled_sample(*sample, names, origin) for sample in samples]
    return labelled_source(
        rows, multi_label=form.multi_label, max_chars=form.max_text_chars, where=where, names=names
    )  # fmt: skip


def _tagged_sample(name: str, content: Any, tags: Any, origin: str) -> TextRow:
    """A row from (`TaggedText`, anything) or (words, tags)."""
    if isinstance(content, TaggedText):
        return TextRow(name, content)
    try:
        if isinstance(content, str | bytes) or not isinstance(tags, Collection):
            raise ValueError(f"expected words and their tags, received {shown(content)} and {shown(tags)}. {UNTAGGED}")
        if len(content) != len(tags):
            raise ValueError(f"expected as many tags as words, received {len(tags)} for {len(content)}.")
        return TextRow(name, join_words([checked_text(word) for word in content], [check_tag(tag) for tag in tags]))
    except (TypeError, ValueError) as error:
        raise DataError(f"{origin}, sample {name}: {error}") from error


def _labelled_sample(name: str, text: Any, label: Any, names: Sequence[str], origin: str) -> LabelledText:
    """A row from (text, class name or its index, or several of them)."""

    def named(value: Any) -> str:
        is_index = bool(names) and not isinstance(value, str)
        return names[value] if is_index else checked_label(value)

    try:
        label = tuple(named(one) for one in label) if isinstance(label, list | tuple) else named(label)
        return LabelledText(f"{origin}, sample {name}", name, checked_text(text), label)
    except (TypeError, IndexError, ValueError) as error:
        advice = "" if isinstance(text, str) else f" {_OTHER_TASKS}"
        raise DataError(f"{origin}, sample {name}: {error}{advice}") from error
