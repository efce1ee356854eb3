"""`data.path: package.module:function`: data that a user's own code gives."""

import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from tfpipe.core.errors import DataError
from tfpipe.data.arrays import ArraySource, rgb_pixels
from tfpipe.data.labels import class_order
from tfpipe.settings import Config

# A dataset is held in memory, once in every worker; beyond this a source or TFRecord shards are the better form.
MAX_DATASET_BYTES = 4 * 2**30
_PROGRESS_AFTER_S = 2.0


class UserSource:
    """A user's object with `__len__`, `labels` and `read(i)`, as a source.

    Its `label(i)` (index or name) and `identifier(i)` are used where it has them; without `label`, every sample is read
    once on opening.

    Args:
        given: The user's object.
        where: What gave it, for messages.

    Raises:
        DataError: A part is missing, or a label is none of `labels`.
    """

    def __init__(self, given: Any, *, where: str) -> None:
        self.labels = _class_names(given, where)
        self._given = given
        self._where = where
        label_of = given.label if hasattr(given, "label") else lambda index: given.read(index)[1]
        indices = tqdm(range(len(given)), desc="reading labels", delay=_PROGRESS_AFTER_S, disable=None, leave=False)
        self._classes = np.array([self._index_of(label_of(index), index) for index in indices], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._classes)

    def identifier(self, index: int) -> str:
        return str(self._given.identifier(index)) if hasattr(self._given, "identifier") else f"{index:06d}"

    def label(self, index: int) -> int:
        return int(self._classes[index])

    def stamp(self, index: int) -> str:
        # Reading every sample would cost as much as an epoch.
        return ""

    def read(self, index: int) -> tuple[Any, int]:
        sample, label = self._given.read(index)
        if self._index_of(label, index) != self.label(index):
            raise DataError(f"{self._where}: expected read({index}) to give the label that it gave before.")
        return sample, self.label(index)

    def _index_of(self, label: Any, index: int) -> int:
        if isinstance(label, str) and label in self.labels:
            return self.labels.index(label)
        if isinstance(label, int | np.integer) and 0 <= label < len(self.labels):
            return int(label)
        raise DataError(
            f"{self._where}: expected the label of sample {index} to be one of {list(self.labels)} or an index below "
            f"{len(self.labels)}, received {label!r}."
        )


def open_function(spec: str, split: str, config: Config, *, where: str) -> UserSource | ArraySource | None:
    """Call `fn(split, config)` and take what it returns as a source.

    Args:
        spec: "package.module:function"; the current folder is importable.
        split: "train", "validation" or "test".
        config: Passed on.
        where: The key that `spec` came from, for messages.

    Returns:
        The source; None where the function returns None, i.e. has no such split.

    Raises:
        DataError: It cannot be imported, or returns something else.
    """
    given, origin = call_function(spec, split, config, where=where)
    if given is None:
        return None
    if hasattr(given, "as_numpy_iterator"):
        return _from_dataset(given, split, origin)
    missing = [name for name in ("__len__", "labels", "read") if not hasattr(given, name)]
    if missing:
        raise DataError(
            f"{origin}: expected a source (__len__, labels, read(i)), an unbatched tf.data.Dataset or None, received "
            f"{type(given).__name__}, which lacks {', '.join(missing)}."
        )
    return UserSource(given, where=origin)


def call_function(spec: str, split: str, config: Config, *, where: str) -> tuple[Any, str]:
    """What `fn(split, config)` returns, and its name for messages; see `open_function`.

    Raises:
        DataError: It cannot be imported.
    """
    return _load(spec, where)(split, config), f"{where}: {spec}({split!r})"


def _load(spec: str, where: str) -> Callable[[str, Config], Any]:
    module_name, _, name = spec.partition(":")
    # `python -m` puts the current folder there; an installed command does not.
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # a module that the user's module needs
        raise DataError(
            f"{where}: expected an importable module in {spec!r}, found no {error.name!r}. Modules are looked up in "
            "the current folder and the environment."
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        raise DataError(f"{where}: expected a function {name!r} in module {module_name!r}, found none.")
    return function  # type: ignore[no-any-return]


def _class_names(given: Any, where: str) -> tuple[str, ...]:
    names = tuple(given.labels)
    if not names or not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
        raise DataError(f"{where}: expected labels to be distinct class names, received {list(names)}.")
    return names


def _from_dataset(dataset: Any, split: str, where: str) -> ArraySource:
    """Hold an unbatched dataset of (uint8 image, integer label) in memory."""
    if int(dataset.cardinality()) == -1:  # tf.data.INFINITE_CARDINALITY
        raise DataError(f"{where}: expected a finite dataset, received one that repeats for ever. Drop .repeat().")
    images: list[np.ndarray] = []
    labels: list[int] = []
    size_bytes = 0
    for element in tqdm(dataset.as_numpy_iterator(), desc="reading", delay=_PROGRESS_AFTER_S, disable=None):
        image, label = _checked_element(element, where)
        size_bytes += image.nbytes
        if size_bytes > MAX_DATASET_BYTES:
            raise DataError(
                f"{where}: expected a dataset of at most {MAX_DATASET_BYTES // 2**30} GiB decoded, which is held in "
                f"memory; received more after {len(images)} samples. Return a source, or pack it as TFRecord shards."
            )
        images.append(image)
        labels.append(label)
    if not images:
        raise DataError(f"{where}: expected samples, received an empty dataset.")
    names = _dataset_names(dataset, labels, where)
    position = {name: index for index, name in enumerate(names)}
    classes = labels if hasattr(dataset, "class_names") else [position[str(label)] for label in labels]
    return ArraySource(images, classes, names, split)


def _checked_element(element: Any, where: str) -> tuple[np.ndarray, int]:
    if not isinstance(element, tuple) or len(element) != 2:
        raise DataError(f"{where}: expected elements (image, label), received {type(element).__name__}.")
    image, label = np.asarray(element[0]), np.asarray(element[1])
    if image.dtype != np.uint8 or image.ndim not in (2, 3):
        raise DataError(
            f"{where}: expected unbatched uint8 images of shape (H, W, 3), received {image.dtype} of shape "
            f"{image.shape}. Use .unbatch(), and tf.cast(image, tf.uint8) where values are 0..255."
        )
    if label.ndim != 0 or not np.issubdtype(label.dtype, np.integer):
        raise DataError(
            f"{where}: expected one integer label, received {label.dtype} of shape {label.shape}. "
            "Use tf.argmax for one-hot labels."
        )
    return rgb_pixels(image), int(label)


def _dataset_names(dataset: Any, labels: Sequence[int], where: str) -> tuple[str, ...]:
    # keras.utils.image_dataset_from_directory leaves its class names here.
    if not hasattr(dataset, "class_names"):
        return class_order(str(label) for label in labels)
    names = tuple(dataset.class_names)
    if not 0 <= min(labels) <= max(labels) < len(names):
        raise DataError(f"{where}: expected labels 0..{len(names) - 1}, received {min(labels)}..{max(labels)}.")
    return names
