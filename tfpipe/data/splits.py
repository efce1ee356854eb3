"""Training, validation and test data of a run: opened, split by class, and checked against each other."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tfpipe.core.entities import OUTSIDE
from tfpipe.core.errors import DataError
from tfpipe.data.holding_out import hold_out, split_texts
from tfpipe.data.sources import Relabelled, Source, is_function, open_source, subset
from tfpipe.data.text import TextSource, listed
from tfpipe.data.text_files import TextForm, open_text
from tfpipe.settings import Config


@dataclass(frozen=True)
class Splits:
    """The data of a run. All sources share the class names of `train`.

    Attributes:
        train: Trained on.
        validation: Scored after each epoch; None where the config asks for none.
        test: Scored once, at the end; None where there is none.
        fingerprint: Hex sha256 of what is in which split; see `fingerprint`.
    """

    train: Source
    validation: Source | None
    test: Source | None
    fingerprint: str


def open_splits(config: Config) -> Splits:
    """Open the data of a run; the same on every worker.

    Validation data are those of `data.validation_path`, or else `data.validation_fraction` of each class of
    `data.path`. A function as `data.path` is asked for its own "validation" and "test" first.

    Args:
        config: Its section `data` and `training.seed`.

    Raises:
        DataError: Nothing there, fewer than two classes, a class without samples or with too few to split, or a class
            in validation or test that training lacks.
    """
    train, validation, test = open_sources(config)
    _check_classes(train)
    if validation is not None:
        validation = _in_classes_of(train, validation, "validation")
    elif config.data.validation_fraction > 0:
        kept, held_out = split_source(train, config.data.validation_fraction, config.training.seed)
        train, validation = subset(train, kept), subset(train, held_out)
    if test is not None:
        test = _in_classes_of(train, test, "test")
    return Splits(train, validation, test, fingerprint(train, validation, test))


def open_sources(config: Config) -> tuple[Source, Source | None, Source | None]:
    """Open training, validation and test data as they are: not split, not checked against each other.

    Each counts classes in its own `labels`. Texts of all three have as many labels each as the training data's: one, or
    any number.

    Raises:
        DataError: Nothing there, or not readable as a data set.
    """
    train = _open(config, config.data.path, "train", "data.path")
    if train is None:
        raise DataError(f"data.path: expected {config.data.path}('train') to return data, received None.")
    multi_label = train.multi_label if isinstance(train, TextSource) else None
    return (
        train,
        _open_other(config, config.data.validation_path, "validation", multi_label),
        _open_other(config, config.data.test_path, "test", multi_label),
    )


def open_validation_alone(config: Config, labels: Sequence[str], *, multi_label: bool) -> Source | None:
    """Open `data.validation_path` without the training data.

    Args:
        config: The run.
        labels: Of the model, in which classes are counted.
        multi_label: Whether a text may have several.

    Raises:
        DataError: Nothing there, or not readable as a data set, or with labels that the model does not have.
    """
    source = _open(config, config.data.validation_path or "", "validation", "data.validation_path", multi_label)
    if isinstance(source, TextSource):
        return source.with_labels(labels)
    return None if source is None else Relabelled(source, tuple(labels))


def split_source(source: Source, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Hold out a share of a data set: `split_texts` of texts, `split_by_class` of all else."""
    if isinstance(source, TextSource):
        return split_texts(source, fraction, seed)
    return split_by_class(source, fraction, seed)


def split_by_class(source: Source, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Hold out a share of every class.

    A sample's side depends on its identifier and the seed alone, up to rounding: samples that are added later move few
    others. Samples of one identifier stay together.

    Args:
        source: n samples.
        fraction: Share held out, above 0 and below 1; at least one sample of a class goes to either side.
        seed: Another seed gives another split.

    Returns:
        (kept, held out): increasing positions in `source`, together all n.

    Raises:
        DataError: A class has one sample only.
    """
    groups: list[dict[str, list[int]]] = [{} for _ in source.labels]
    for index in range(len(source)):
        groups[source.label(index)].setdefault(source.identifier(index), []).append(index)
    small = [name for name, members in zip(source.labels, groups, strict=True) if len(members) == 1]
    if small:
        raise DataError(
            f"data.validation_fraction: expected at least 2 samples in every class to split, received 1 in "
            f"{listed(small)}. Add samples, or set data.validation_path or data.validation_fraction=0."
        )
    return hold_out(groups, fraction, seed)


def fingerprint(*sources: Source | None) -> str:
    """Hex sha256 over each split's class names and its samples' identifiers, classes and stamps, in order.

    Stamps are file sizes, record checksums or hashes of arrays (`Source.stamp`), so that nothing large is read: a file
    changed in place to another of the same size is not noticed; `validate` and `pack` hash the content itself.
    """
    digest = hashlib.sha256()
    for source in sources:
        for line in _lines(source):
            digest.update(line.encode() + b"\n")
    return digest.hexdigest()


def _lines(source: Source | None) -> Iterator[str]:
    yield "no split" if source is None else f"split {source.labels!r}"
    for index in range(len(source) if source is not None else 0):
        yield f"{source.identifier(index)!r} {source.label(index)} {source.stamp(index)}"  # type: ignore[union-attr]


def _check_classes(source: Source) -> None:
    if isinstance(source, TextSource) and source.kind != "single":
        if not set(source.labels) - {OUTSIDE}:
            what = "labels" if source.multi_label else "entities"
            raise DataError(f"data.path: expected texts with {what}, received none.")
        return
    counts = class_counts(source)
    if len(source.labels) < 2:
        raise DataError(f"data.path: expected at least two classes, received one: {source.labels[0]!r}.")
    empty = [name for name, count in zip(source.labels, counts, strict=True) if count == 0]
    if empty:
        raise DataError(f"data.path: expected samples of every class, received none of {listed(empty)}.")


def class_counts(source: Source) -> np.ndarray:
    """Samples of each class.

    Returns:
        (classes,) int64, in the order of `source.labels`.
    """
    return np.bincount([source.label(index) for index in range(len(source))], minlength=len(source.labels))


def _open_other(config: Config, path: str | None, split: str, multi_label: bool | None) -> Source | None:
    where = f"data.{split}_path"
    if path is not None:
        source = _open(config, path, split, where, multi_label)
        if source is None:
            raise DataError(f"{where}: expected {path}({split!r}) to return data, received None.")
        return source
    # Only a function has splits of its own under one name.
    return _open(config, config.data.path, split, "data.path", multi_label) if is_function(config.data.path) else None


def _open(config: Config, path: str, split: str, where: str, multi_label: bool | None = None) -> Source | None:
    form = text_form(config)
    if form is None:
        return open_source(path, columns=config.data.columns, split=split, config=config, where=where)
    if multi_label is not None:
        form = replace(form, multi_label=multi_label)
    return open_text(path, form, split=split, config=config, where=where)


def text_form(config: Config) -> TextForm | None:
    """How a run's texts are read; None for a task of images."""
    data = config.data
    if config.task == "image_classification":
        return None
    return TextForm(
        task=config.task,
        columns=data.columns,
        text_column=data.text_column,
        label_column=data.label_column,
        multi_label=data.multi_label,
        max_text_chars=data.max_text_chars,
    )


def _in_classes_of(train: Source, other: Source, split: str) -> Source:
    if isinstance(other, TextSource):
        return other.with_labels(train.labels)
    present = [name for name, count in zip(other.labels, class_counts(other), strict=True) if count]
    unknown = [name for name in present if name not in train.labels]
    if unknown:
        raise DataError(
            f"data.{split}_path: expected only classes of the training data ({listed(train.labels)}), received "
            f"{listed(unknown)} too."
        )
    return Relabelled(other, train.labels)
