"""What stands around a classifier that was trained elsewhere, so that it takes our rows and gives probabilities."""

from collections.abc import Sequence
from typing import Any, Literal

import keras
from keras import ops

from tfpipe.preprocessing.layers import Probabilities

Answers = Literal["logits", "probabilities", "logit", "probability"]
# ITU-R BT.601, as Pillow and TensorFlow make grey of colours.
_GREY = (0.299, 0.587, 0.114)


@keras.saving.register_keras_serializable(package="tfpipe")
class ModelRows(keras.layers.Layer):
    """Rows as a model takes them: of one channel where it has one, of whole numbers where it takes integers.

    Args:
        channels: 3, or 1: grey.
        taken: Dtype that the model takes, e.g. "uint8".
    """

    def __init__(self, channels: int, taken: str, **kwargs: Any) -> None:
        super().__init__(**{**kwargs, "dtype": "float32"})
        self.channels, self.taken = channels, taken

    def call(self, rows: Any) -> Any:
        """(batch, height, width, 3) float32 -> (batch, height, width, channels) of the dtype that the model takes."""
        if self.channels == 1:
            rows = ops.sum(rows * ops.convert_to_tensor(_GREY, "float32"), axis=-1, keepdims=True)
        if "float" not in self.taken:
            # Resizing leaves fractions, which a cast would cut off.
            rows = ops.round(rows)
        return ops.cast(rows, self.taken)

    def compute_output_spec(self, rows: Any) -> Any:
        """See `call`."""
        return keras.KerasTensor((*rows.shape[:-1], self.channels), dtype=self.taken)

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {**super().get_config(), "channels": self.channels, "taken": self.taken}


@keras.saving.register_keras_serializable(package="tfpipe")
class ClassProbabilities(Probabilities):
    """Probabilities of every class, from whatever a classifier gives.

    Args:
        labels: Class names; two where the model gives one number, that of the second.
        answers: What the model gives: "logits" or "probabilities" of each class, or a "logit" or "probability" of the
            second of two.
    """

    def __init__(self, labels: Sequence[str], answers: Answers, **kwargs: Any) -> None:
        kwargs.pop("multi_label", None)
        super().__init__(labels, **kwargs)
        self.answers = answers

    def call(self, given: Any) -> Any:
        """(batch, classes), or (batch, 1) of two classes -> (batch, classes) float32."""
        given = ops.cast(given, "float32")
        if self.answers == "logits":
            return ops.softmax(given, axis=-1)
        if self.answers == "probabilities":
            return given
        second = ops.sigmoid(given) if self.answers == "logit" else given
        return ops.concatenate([1.0 - second, second], axis=-1)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """One probability a class."""
        return (*input_shape[:-1], len(self.labels))

    def get_config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {**super().get_config(), "answers": self.answers}
