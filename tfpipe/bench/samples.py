"""What a load asks for: inputs from files, or made up to fit the model."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tfpipe.bench.asking import AskedModel, Sample
from tfpipe.core.errors import ConfigError
from tfpipe.core.signature import Array, TensorSpec

# Some that differ: one input for ever would be answered out of caches, of processors too.
_MADE_UP = 16
_SOME_LENGTH = 16
_WORDS = (
    "the", "printer", "on", "our", "floor", "is", "out", "of", "paper", "again", "and", "nobody", "knows", "who",
    "more", "please", "send", "two", "boxes", "thank", "you", "for", "quick", "answer", "my", "parcel", "came", "late",
)  # fmt: skip
_JPEG_QUALITY = 90
# A photograph's detail, not noise, which no decoder meets in practice.
_COARSE = 16


def read_samples(paths: Sequence[Path], model: AskedModel) -> list[Sample]:
    """Inputs from files.

    Args:
        paths: Of images or texts: files, folders, and manifests with a column `path` or `text`, as `tfpipe predict`
            takes them; of tensors: .npz files, an array by input name.
        model: What they are for.

    Raises:
        ConfigError: There is nothing, or nothing that the model takes.
        DataError: A file cannot be read.
    """
    if model.takes == "tensors":
        return [_arrays(path, model) for path in paths]
    # What reads tables and guesses encodings is not installed with every service.
    from tfpipe.prediction_inputs import check_inputs, list_inputs

    check_inputs(paths)
    return [given.read(model.takes) for given in list_inputs(paths, model.takes)]


def make_samples(model: AskedModel, *, image_size: tuple[int, int], text_words: int, seed: int) -> list[Sample]:
    """Inputs that the model takes, made up; the same ones for the same seed.

    Args:
        model: What they are for.
        image_size: (height, width) of JPEG files.
        text_words: Words of a text.
        seed: Where chance begins.
    """
    rng = np.random.default_rng(seed)
    if model.takes == "image":
        return [_picture(image_size, rng) for _ in range(_MADE_UP)]
    if model.takes == "text":
        return [" ".join(rng.choice(_WORDS, text_words)) for _ in range(_MADE_UP)]
    return [{spec.name: _tensor(spec, rng) for spec in model.inputs} for _ in range(_MADE_UP)]


def _picture(size: tuple[int, int], rng: np.random.Generator) -> bytes:
    small = rng.integers(0, 256, (max(1, size[0] // _COARSE), max(1, size[1] // _COARSE), 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(small).resize((size[1], size[0]), Image.Resampling.BICUBIC).save(
        file, "JPEG", quality=_JPEG_QUALITY
    )
    return file.getvalue()


def _tensor(spec: TensorSpec, rng: np.random.Generator) -> Array:
    # One row; other axes that may have any length get some.
    lengths = [length if isinstance(length, int) else _SOME_LENGTH for length in spec.shape]
    if spec.shape and isinstance(spec.shape[0], str):
        lengths[0] = 1
    dtype = np.dtype(spec.dtype)
    if dtype.kind == "f":
        return np.asarray(rng.standard_normal(lengths), dtype)
    return rng.integers(0, 2, lengths).astype(dtype)


def _arrays(path: Path, model: AskedModel) -> dict[str, Array]:
    names = {one.name for one in model.inputs}
    try:
        with np.load(path, allow_pickle=False) as content:
            arrays = {name: content[name] for name in content.files}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: expected an .npz file of arrays named as the model's inputs; {error}.") from error
    if arrays.keys() != names:
        raise ConfigError(
            f"{path}: expected arrays named {', '.join(sorted(names))}; received {', '.join(sorted(arrays))}."
        )
    return arrays
