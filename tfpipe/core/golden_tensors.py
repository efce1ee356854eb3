"""Golden samples of a bundle of task `tensor`: named arrays in, and what Keras made of them.

golden/0000.npz            one array for each input, by name
golden/0000.answers.npz    one array for each output, by name
"""

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tfpipe.core.bundle import Bundle
from tfpipe.core.errors import BundleError, SignatureError
from tfpipe.core.signature import Array, TensorSpec

_ANSWERS = ".answers.npz"


@dataclass(frozen=True)
class GoldenTensors:
    """One request with the answer of the model that was converted.

    Attributes:
        inputs: Array by input name, batch axis included.
        outputs: Array by output name.
    """

    inputs: dict[str, Array]
    outputs: dict[str, Array]


def write_golden_tensors(folder: Path, samples: Sequence[GoldenTensors]) -> None:
    """Write samples into `folder`/golden.

    Args:
        folder: Folder of the bundle being made.
        samples: At most 10,000.
    """
    golden = folder / "golden"
    golden.mkdir()
    for number, sample in enumerate(samples):
        _write(golden / f"{number:04d}.npz", sample.inputs)
        _write(golden / f"{number:04d}{_ANSWERS}", sample.outputs)


def read_golden_tensors(bundle: Bundle) -> list[GoldenTensors]:
    """The golden samples of a bundle, in order.

    Raises:
        BundleError: It has none, or one that cannot be read.
    """
    answers = sorted(name for name in bundle.manifest.files if name.startswith("golden/") and name.endswith(_ANSWERS))
    if not answers:
        raise BundleError(f"{bundle.folder}: expected golden samples (golden/*.npz), found none. Convert it again.")
    return [
        GoldenTensors(read_npz(bundle.path(f"{name.removesuffix(_ANSWERS)}.npz")), read_npz(bundle.path(name)))
        for name in answers
    ]


def read_npz(path: Path) -> dict[str, Array]:
    """The arrays of an .npz file by name; never pickled objects.

    Raises:
        BundleError: Not an .npz file of arrays.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise BundleError(f"{path}: expected an .npz file of arrays; {error}.") from error


def check_tensors(specs: Sequence[TensorSpec], given: Mapping[str, Array]) -> None:
    """Refuse arrays that are not as declared: names, dtypes, shapes, and axes of one name that differ in length.

    Args:
        specs: What a model takes.
        given: Array by name.

    Raises:
        SignatureError: Says what was expected and what was received.
    """
    names = [spec.name for spec in specs]
    if set(given) != set(names):
        raise SignatureError(f"inputs: expected {', '.join(names)}; received {', '.join(sorted(given)) or 'none'}.")
    lengths: dict[str, tuple[int, str]] = {}
    for spec in specs:
        array = given[spec.name]
        spec.check(array)
        for axis, length in zip(spec.shape, array.shape, strict=True):
            if isinstance(axis, str) and lengths.setdefault(axis, (length, spec.name))[0] != length:
                raise SignatureError(
                    f"input {spec.name!r}: expected {lengths[axis][0]} along {axis!r}, as input {lengths[axis][1]!r} "
                    f"has, received {length}."
                )


def scaled(outputs: Mapping[str, Array], references: Mapping[str, Array]) -> dict[str, tuple[Array, Array]]:
    """(answer, reference) of each output on a scale on which the reference's largest value is at most 1.

    Probabilities stay as they are; of other outputs, differences are so compared with the largest value.

    Args:
        outputs: Array by name.
        references: Of the same names.

    Returns:
        By name, float64; of whole numbers and truth values unscaled.
    """
    pairs = {}
    for name, reference in references.items():
        is_float = np.issubdtype(reference.dtype, np.floating)
        largest = float(np.max(np.abs(reference), initial=1.0)) if is_float else 1.0
        scale = largest if np.isfinite(largest) else 1.0
        pairs[name] = np.asarray(outputs[name], np.float64) / scale, np.asarray(reference, np.float64) / scale
    return pairs


def _write(path: Path, arrays: Mapping[str, Array]) -> None:
    # Names are those of tensors, which np.savez would take for its own arguments (`file`).
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w") as member:
                np.save(member, array, allow_pickle=False)
