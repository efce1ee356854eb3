"""The SavedModel's hops: every signature, loaded and asked as TensorFlow Serving does."""

import importlib
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tfpipe.core.certificate import Hop, compare
from tfpipe.core.parity import BOUNDS
from tfpipe.core.signature import Array
from tfpipe.decode import decode_with_header


class Asked(NamedTuple):
    """One raw file, and what Keras makes of it.

    Attributes:
        content: The file.
        decoded: (height, width, 3) uint8 pixels, or a text.
        row: (height, width, 3) float32, or (tokens,) int32.
        probabilities: Keras's own answer.
    """

    content: bytes
    decoded: Any
    row: Array
    probabilities: Array


# By the name of a signature's input: what is sent for one file.
_INPUTS: Mapping[str, Callable[[Asked], Any]] = {
    "image_bytes": lambda asked: [asked.content],
    "text": lambda asked: [asked.decoded],
    "pixels": lambda asked: asked.decoded[None],
    "input": lambda asked: asked.row[None],
}


def load_saved_model(folder: Path) -> Any:
    """Load a SavedModel as TensorFlow Serving does; its `signatures` take and give named tensors."""
    # One that takes strings needs the kernels of TensorFlow Text, which importing it registers.
    if importlib.util.find_spec("tensorflow_text") is not None:
        importlib.import_module("tensorflow_text")
    return tf.saved_model.load(str(folder))


def saved_model_hops(loaded: Any, files: Sequence[Asked]) -> list[Hop]:
    """Ask every signature; files that TensorFlow decodes in another way are left out of that for raw bytes.

    Args:
        loaded: By `load_saved_model`. Held while its signatures are used: they do not keep its variables alive.
        files: To ask with.
    """
    return [_hop(name, signature, files) for name, signature in sorted(loaded.signatures.items())]


def _hop(name: str, signature: Any, files: Sequence[Asked]) -> Hop:
    (taken,) = signature.structured_input_signature[1]
    asked = [file for file in files if taken != "image_bytes" or decode_with_header(file.content).is_plain]
    answers = [
        np.asarray(signature(**{taken: tf.constant(_INPUTS[taken](file))})["probabilities"][0]) for file in asked
    ]
    expected = [file.probabilities for file in asked]
    return compare(f"saved_model.{name}", f"{taken} -> SavedModel {name}", answers, expected, BOUNDS["fp32"])
