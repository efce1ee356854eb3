"""Keras and the SavedModel in the place of an ONNX model: from rows to probabilities, to be scored like one."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from tfpipe.core.signature import Array, TensorSpec
from tfpipe.models.assembly import Parts


class KerasRows:
    """The trained model itself.

    Args:
        parts: Under float32 policies.
        rows: What a batch of rows is.
    """

    def __init__(self, parts: Parts, rows: TensorSpec) -> None:
        shape = [None if isinstance(length, str) else length for length in rows.shape]
        self._answer = tf.function(
            lambda batch: parts.probabilities(parts.network(batch, training=False)),
            input_signature=[tf.TensorSpec(shape, rows.dtype)],
            autograph=False,
        )

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """See `tfpipe.ort.OnnxModel.run`."""
        return {"probabilities": np.asarray(self._answer(inputs["input"]))}


class SavedModelRows:
    """A SavedModel's signature `tensor`.

    Args:
        loaded: By `load_saved_model`.
    """

    def __init__(self, loaded: Any) -> None:
        # Held: a signature does not keep the variables alive.
        self._loaded = loaded

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """See `tfpipe.ort.OnnxModel.run`."""
        answered = self._loaded.signatures["tensor"](input=tf.constant(inputs["input"]))
        return {"probabilities": np.asarray(answered["probabilities"])}
